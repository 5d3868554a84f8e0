"""transformers' Trainer with our losses, order of samples, checkpoints and logs; everything else is its own."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from perceptok.errors import TrainingError
from perceptok.files import atomic_folder
from perceptok.llava.saving import save_adapter
from perceptok.llava.training.checkpoints import (
    random_state,
    read_state,
    remove_old,
    set_random_state,
    write_state,
)
from perceptok.llava.training.collating import IDS, Collator
from perceptok.llava.training.layers import decoder_layer_class, frozen_statistics, parameter_groups
from perceptok.llava.training.objective import Objective, positions_to_keep
from perceptok.llava.training.ordering import MicroBatches
from perceptok.llava.training.recipe import FinetuneConfig
from perceptok.llava.training.samples import RecordSamples

if TYPE_CHECKING:
    from perceptok.depth.codec import DepthCodec
    from perceptok.llava.training.reporting import RunLog

__all__ = ["PerceptionTrainer"]


class PerceptionTrainer(Trainer):
    """A Trainer for perception tokens; `finetune` sets one up.

    Batches come from `MicroBatches`, which knows the processes by itself. The loss is `Objective`'s, normalised over
    everything whose gradients are added, so that neither accumulation nor the number of processes changes it. Logits
    are computed only from the first position that teaches something. Checkpoints are whole or not there, and hold no
    pickle (but those of DeepSpeed, which writes its own).
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        samples: RecordSamples,
        batches: MicroBatches,
        collator: Collator,
        objective: Objective,
        config: FinetuneConfig,
        codec: DepthCodec,
        *,
        log: RunLog | None = None,
        watch: Callable[[int], Mapping[str, float]] | None = None,
    ) -> None:
        """Set up a training.

        Args:
            model: Wrapped by peft.
            args: The Trainer's own.
            samples: What is trained on.
            batches: In which order.
            collator: Samples -> batches.
            objective: The losses.
            config: The run's.
            codec: Saved with every adapter.
            log: Where lines go, in the first process.
            watch: step -> further figures to log, now and then.
        """
        super().__init__(model=model, args=args, train_dataset=samples, data_collator=collator)
        self.loss_is_scaled_for_ga = True
        self._samples, self._batches, self._collator = samples, batches, collator
        self._objective, self._config, self._codec = objective, config, codec
        self._log_file, self._watch = log, watch
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and not plugin.transformer_cls_names_to_wrap:
            # LLaVA names layers that it does not have (CLIP's text side), at which accelerate stops.
            plugin.transformer_cls_names_to_wrap = [decoder_layer_class(model.get_base_model())]
        self._keeps = "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        self._frozen = frozen_statistics(model)
        self._codes: Tensor = torch.zeros((), dtype=torch.int64)
        self._pending: list[tuple[list[str], Tensor, Tensor]] = []
        self._logged_step = 0

    @property
    def _module(self) -> torch.nn.Module:
        assert self.model is not None
        return self.model

    # Data -----------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process; resuming passes over as many as were trained, without loading them."""
        workers = self._config.workers
        return DataLoader(
            self._samples,
            batch_sampler=self._batches,
            collate_fn=self._collator,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers and torch.cuda.is_available() else None,
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one step, and the supervised tokens of all processes' batches."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        if not batches:
            return batches, None
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        codes = sum(int(self._collator.code_count(batch["labels"])) for batch in batches)
        counts = torch.tensor([tokens, codes], device=device)
        if self.args.world_size > 1:
            distributed.all_reduce(counts)
        self._codes = counts[1]
        return batches, counts[0]

    # Loss -----------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss of one batch; see `Objective`.

        Raises:
            TrainingError: It is NaN or infinite; the message names the batch's records.
        """
        ids, groups = (inputs[name] for name in IDS)
        labels = inputs["labels"]
        teacher = inputs.get("teacher")
        given = {name: value for name, value in inputs.items() if name not in (*IDS, "labels", "teacher")}
        if self._keeps:
            given["logits_to_keep"] = positions_to_keep(labels)
        for layer in self._frozen:  # the Trainer has just set the whole model to train
            layer.eval()
        outputs = model(**given, use_cache=False)
        assert num_items_in_batch is not None
        loss = self._objective(outputs.logits, inputs["input_ids"], labels, num_items_in_batch, self._codes, teacher)
        if not torch.isfinite(loss.total):
            raise TrainingError(
                f"the loss is {float(loss.total.detach())} at step {self.state.global_step + 1}, in the batch of the "
                f"records {', '.join(map(repr, ids))}; nothing was updated with it. Look at these records, or lower "
                "learning_rate; the last checkpoint is whole"
            )
        self._pending.append((groups, loss.sums, loss.counts))
        # Gradients are averaged over processes, and the loss is a part of the sum over all of them.
        total = loss.total * self.args.world_size
        return (total, outputs) if return_outputs else total

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW on the groups of `parameter_groups`."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self._module if model is None else model, self._config), lr=self.args.learning_rate
            )
        return self.optimizer

    # Logs -----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses by group and the mixture that was drawn, and write a line."""
        step = self.state.global_step
        if "loss" in logs:
            logs |= self._losses_by_group()
            mixture = self._batches.curriculum.mixture(self._logged_step, step)
            logs |= {f"share/{regime}": share for regime, share in mixture.shares.items()}
            self._logged_step = step
        every = self._config.report.generate_every
        if self._watch is not None and "loss" in logs and every and step % every == 0:
            logs |= self._watch(step)
        super().log(logs, start_time)
        if self._log_file is not None:
            self._log_file.write(step, {key: value for key, value in logs.items() if isinstance(value, int | float)})

    def _losses_by_group(self) -> dict[str, float]:
        """Mean cross entropy of each task and regime since the last line, over all processes."""
        found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for groups, sums, counts in self._pending:
            for group, one, count in zip(groups, sums.tolist(), counts.tolist(), strict=True):
                found[group][0] += one
                found[group][1] += count
        self._pending.clear()
        if self.args.world_size > 1:
            everyone: list[Any] = [None] * self.args.world_size
            distributed.all_gather_object(everyone, dict(found))
            found.clear()
            for one in everyone:
                for group, (total, count) in one.items():
                    found[group][0] += total
                    found[group][1] += count
        return {f"loss/{group}": total / max(1.0, count) for group, (total, count) in sorted(found.items())}

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def save_to(self, folder: Path, *, verify: str = "file", force: bool = True) -> None:
        """Save the adapter from the first process; all have to call this."""
        state = self._gathered()
        if self.args.process_index == 0:
            # A check of logits is made without the autocast that accelerate put around the model.
            model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=verify == "file")
            save_adapter(
                folder,
                model,
                self._collator.processor,
                self._collator.vocab,
                self._codec,
                self._collator.frame,
                self._config,
                base=self._config.base,
                verify="file" if state is not None else verify,  # type: ignore[arg-type]
                state_dict=state,
                force=force,
            )
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter; the Trainer's own code calls this under DeepSpeed."""
        self.save_to(Path(output_dir or str(self.args.output_dir)) / "adapter")

    def _gathered(self) -> dict[str, Tensor] | None:
        """The trained weights, whole, where this process holds shards of them; None where it holds them all."""
        if self.is_deepspeed_enabled:
            gathered: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
            return gathered
        if not self.is_fsdp_enabled:
            return None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return cast("dict[str, Tensor]", get_model_state_dict(self._module, options=options))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.is_deepspeed_enabled:
            super()._save_checkpoint(model, trial)
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        optimizer = get_optimizer_state_dict(self._module, _inner(self.optimizer), options=options)
        generators: list[Any] = [random_state()]
        if self.args.world_size > 1:
            generators = [None] * self.args.world_size
            distributed.all_gather_object(generators, random_state())
        state = self._gathered()
        if self.args.process_index == 0:
            run = Path(str(self.args.output_dir))
            with atomic_folder(run / f"checkpoint-{self.state.global_step}", force=True) as place:
                save_adapter(
                    place / "adapter",
                    self.accelerator.unwrap_model(self.model),
                    self._collator.processor,
                    self._collator.vocab,
                    self._codec,
                    self._collator.frame,
                    self._config,
                    base=self._config.base,
                    verify="file",
                    state_dict=state,
                )
                write_state(
                    place,
                    {
                        "optimizer": optimizer,
                        "scheduler": _plain(self.lr_scheduler.state_dict()),  # type: ignore[union-attr]
                        "random": generators,
                        "logged_step": self._logged_step,
                    },
                )
                self.state.save_to_json(str(place / "trainer_state.json"))
            remove_old(run, self._config.keep)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The adapter is loaded already: `finetune` started from it."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = read_state(Path(checkpoint))
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self._module, _inner(self.optimizer), state["optimizer"], options=options)
        self.lr_scheduler.load_state_dict(state["scheduler"])  # type: ignore[union-attr]
        self._logged_step = state["logged_step"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_rng_state(checkpoint)
            return
        generators = read_state(Path(checkpoint))["random"]
        if len(generators) == self.args.world_size:
            set_random_state(generators[self.args.process_index])


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer below what accelerate put around it."""
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's state without its functions, which are made anew."""
    return {
        key: [None] * len(value) if key == "lr_lambdas" else value
        for key, value in state.items()
        if not callable(value)
    }
