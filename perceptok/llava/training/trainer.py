"""transformers' Trainer with perceptok's loss, curriculum, checkpoints and log; everything else is the Trainer's."""

from __future__ import annotations

import inspect
import itertools
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from perceptok.errors import ConfigError, PerceptokError, TrainingError, quote_error
from perceptok.files import atomic_folder, atomic_write, parse_json, read_input
from perceptok.llava.saving import ADAPTER_OUTPUT, Verify, save_adapter
from perceptok.llava.training.config import FinetuneConfig
from perceptok.llava.training.monitoring import log_images
from perceptok.llava.training.objective import (
    BatchLoss,
    Objective,
    count_logits_to_keep,
    decoder_layer_class,
    frozen_norms,
    parameter_groups,
)
from perceptok.llava.training.run_folder import Fingerprints, make_damage_error, write_fingerprints
from perceptok.llava.training.samples import IGNORE_INDEX, NOT_FOR_MODEL, Collator, RecordSamples

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec
    from perceptok.llava.training.monitoring import GenerationMonitor
    from perceptok.llava.training.run_folder import RunLog
    from perceptok.llava.training.sampling import MicroBatches

__all__ = [
    "PerceptionTrainer",
    "find_last_checkpoint",
    "read_state",
    "write_state",
]


class PerceptionTrainer(Trainer):
    """A Trainer for perception tokens; `finetune` sets one up.

    Batches come from `MicroBatches`, which splits each step over the processes. The loss is `Objective`'s, a mean over
    the supervised tokens of all accumulated batches and processes, so that neither number changes it. Logits are
    computed only from the first supervised position on. Checkpoints are written atomically and without pickle (those
    of DeepSpeed excepted, which writes its own).
    """

    def __init__(
        self,
        model: Any,
        args: FinetuneConfig,
        samples: RecordSamples,
        batches: MicroBatches,
        collator: Collator,
        objective: Objective,
        codec: DepthCodec,
        *,
        epoch_samples: int,
        log: RunLog | None = None,
        fingerprints: Fingerprints | None = None,
    ) -> None:
        """Set up a training.

        Args:
            model: Wrapped by peft.
            args: The configuration.
            samples: The training samples.
            batches: The order of the samples.
            collator: Makes batches of samples.
            objective: The loss.
            codec: Saved with every adapter.
            epoch_samples: Number of samples of an epoch.
            log: The log file, in the main process.
            fingerprints: Those of records and images, saved with every checkpoint.

        Raises:
            ConfigError: accelerate was set up for another precision; or samples of text alone under FSDP or DeepSpeed.
        """
        try:
            super().__init__(model=model, args=args, train_dataset=samples, data_collator=collator)
        except ValueError as error:  # of settings that contradict each other
            raise ConfigError(quote_error(error)) from error
        if self.accelerator.mixed_precision != args.precision:
            raise ConfigError(
                f"accelerate computes with mixed_precision {self.accelerator.mixed_precision!r}, the configuration has "
                f"{args.precision!r} (bf16, fp16); make accelerate's configuration agree"
            )
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if is_sharded and not all(sample.images for sample in samples.samples):
            raise ConfigError(
                "instruction_records: under FSDP and DeepSpeed every batch needs an image, as all processes gather "
                "the same shards; leave the samples of text alone out, or use DDP"
            )
        self.loss_is_scaled_for_ga = True
        self._samples, self._batches, self._collator = samples, batches, collator
        self._objective, self._config, self._codec = objective, args, codec
        self._log_file = log
        self.monitor: GenerationMonitor | None = None
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and not plugin.transformer_cls_names_to_wrap:
            # LLaVA names layers that it does not have (CLIP's text side), at which accelerate stops.
            plugin.transformer_cls_names_to_wrap = [decoder_layer_class(model.get_base_model())]
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        self._frozen_norms = frozen_norms(model)
        self._codes: Tensor = torch.zeros((), dtype=torch.int64)
        self._pending: list[tuple[list[str], BatchLoss]] = []
        self._logged_step = 0
        self._fingerprints = fingerprints or Fingerprints({})
        self._projector = [
            parameter
            for group in parameter_groups(model, args)
            if group["name"] == "projector"
            for parameter in group["params"]
        ]
        self._progress = _RunProgress(batches.curriculum.batch_size / epoch_samples)
        self.add_callback(self._progress)

    @property
    def _module(self) -> torch.nn.Module:
        assert self.model is not None
        return self.model

    # Data -----------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process; a resumed run skips those that were trained on, without loading them."""
        args = self.args
        context = getattr(args, "dataloader_multiprocessing_context", None)  # newer releases of transformers
        if context is None and args.dataloader_num_workers and torch.cuda.is_available():
            context = "spawn"
        return DataLoader(
            self._samples,
            batch_sampler=self._batches,
            collate_fn=self._collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=context,
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, and the number of supervised tokens in those of all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        tokens = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
        codes = sum(self._collator.count_codes(batch["labels"]) for batch in batches)
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
        """The objective's loss of a batch, as its part of the step's mean.

        Raises:
            TrainingError: The loss is NaN or infinite; the message names the batch's records.
        """
        labels = inputs["labels"]
        arguments = {name: value for name, value in inputs.items() if name not in (*NOT_FOR_MODEL, "labels")}
        if self._takes_logits_to_keep:
            arguments["logits_to_keep"] = count_logits_to_keep(labels)
        for layer in self._frozen_norms:  # the Trainer has just set the whole model to train
            layer.eval()
        outputs = model(**arguments, use_cache=False)
        assert num_items_in_batch is not None
        loss = self._objective(
            outputs.logits, inputs["input_ids"], labels, num_items_in_batch, self._codes, inputs.get("teacher")
        )
        if not torch.isfinite(loss.total):
            raise TrainingError(
                f"the loss is {float(loss.total.detach())} at step {self.state.global_step + 1}, in the batch of the "
                f"records {', '.join(map(repr, inputs['sample_ids']))}; no weight was updated with it. Check these "
                "records, or lower learning_rate; the last checkpoint is complete"
            )
        self._pending.append((inputs["groups"], loss._replace(total=loss.total.detach())))
        total = loss.total
        if not any(name.startswith("pixel_values") for name in inputs):
            # A batch of text alone: DDP waits for a gradient of every trained weight.
            total = total + 0.0 * sum(parameter.sum() for parameter in self._projector)
        # DDP averages gradients over the processes, and this loss is a part of the sum over them.
        total = total * self.args.world_size
        return (total, outputs) if return_outputs else total

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that `optim` names, on the groups of `parameter_groups`."""
        if self.optimizer is None:
            module: Any = self._module if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, module)
            self.optimizer = kind(parameter_groups(module, self._config), **options)
        return self.optimizer

    # Logs -----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss by term, task and regime, learning rates and the shares drawn, and write a line of the log."""
        step = self.state.global_step
        if "loss" in logs:
            logs |= self._summarize_losses()
            logs |= self._progress.learning_rates
            mixture = self._batches.curriculum.mixture(self._logged_step, step)
            logs |= {f"share/{regime}": share for regime, share in mixture.shares.items()}
            self._logged_step = step
        every = self._config.monitoring.generate_steps
        if self.monitor is not None and "loss" in logs and every and step % every == 0:
            figures, images = self.monitor.generate()
            logs |= figures
            log_images(self.callback_handler.callbacks, images, step)
        super().log(logs, start_time)
        if self._log_file is not None:
            self._log_file.write(step, {key: value for key, value in logs.items() if isinstance(value, int | float)})

    def _summarize_losses(self) -> dict[str, float]:
        """Mean of each term, and mean cross entropy of each task and regime, since the last line, over all processes.

        The terms are those of the objective before their weights.
        """
        groups: list[tuple[str, float, float]] = []
        terms: dict[str, float] = defaultdict(float)
        for names, loss in self._pending:
            groups += zip(names, loss.sums.tolist(), loss.counts.tolist(), strict=True)
            for name, term in loss.terms.items():
                terms[name] += float(term) * self._batches.parts / len(self._pending)
        self._pending.clear()
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        summed: dict[str, float] = defaultdict(float)
        for part_groups, part_terms in self._gather_objects((groups, dict(terms))):
            for group, total, count in part_groups:
                totals[group][0] += total
                totals[group][1] += count
            for name, value in part_terms.items():
                summed[name] += value
        means = {group: total / max(1.0, count) for group, (total, count) in sorted(totals.items())}
        return {f"loss/{name}": value for name, value in (summed | means).items()}

    def _gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if self.args.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.args.world_size
        distributed.all_gather_object(values, value)
        return values

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def save_adapter_to(self, folder: Path, *, verify: Verify = "file") -> None:
        """Save the adapter from the main process; every process has to call this."""
        state = self._gather_weights()
        if self.args.process_index == 0:
            # Logits are compared without the autocast that accelerate put around the model.
            model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=verify == "file")
            self._save_adapter(folder, model, "file" if state is not None else verify, state)
        self.accelerator.wait_for_everyone()

    def _save_adapter(self, folder: Path, model: Any, verify: Verify, state: dict[str, Tensor] | None) -> None:
        save_adapter(
            folder,
            model,
            self._collator.processor,
            self._collator.vocab,
            self._codec,
            self._collator.frame,
            self._config.to_dict(),
            system=self._config.system,
            base=self._config.model_name_or_path,
            verify=verify,
            state_dict=state,
            force=True,
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter; the Trainer's own code calls this under DeepSpeed."""
        self.save_adapter_to(Path(output_dir or str(self.args.output_dir)) / "adapter")

    def _gather_weights(self) -> dict[str, Tensor] | None:
        """The trained weights, gathered from the shards of all processes; None where nothing is sharded."""
        if self.is_deepspeed_enabled:
            return cast("dict[str, Tensor]", self.accelerator.get_state_dict(self.model_wrapped))
        if not self.is_fsdp_enabled:
            return None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return cast("dict[str, Tensor]", get_model_state_dict(self._module, options=options))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.is_deepspeed_enabled:
            super()._save_checkpoint(model, trial)
            if self.args.process_index == 0:
                folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
                write_fingerprints(folder, self._fingerprints)
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = {
            "optimizer": get_optimizer_state_dict(self._module, _unwrap(self.optimizer), options=options),
            "scheduler": _scheduler_state(self.lr_scheduler),
            "random": self._gather_objects(_get_random_state()),
            "logged_step": self._logged_step,
        }
        weights = self._gather_weights()
        if self.args.process_index == 0:
            output = Path(str(self.args.output_dir))
            name = f"checkpoint-{self.state.global_step}"
            with atomic_folder(
                output / name, force=True, marker="trainer_state.json", patterns=_CHECKPOINT_FILES
            ) as folder:
                self._save_adapter(folder / "adapter", self.accelerator.unwrap_model(self.model), "file", weights)
                write_state(folder, state)
                write_fingerprints(folder, self._fingerprints)
                self.state.save_to_json(str(folder / "trainer_state.json"))
            if self.args.save_total_limit:
                _remove_old_checkpoints(output, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing is left to load: `finetune` started from the checkpoint's adapter."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        with _name_damage(checkpoint):
            state = read_state(Path(checkpoint))
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self._module, _unwrap(self.optimizer), state["optimizer"], options=options)
            self.lr_scheduler.load_state_dict(state["scheduler"])  # type: ignore[union-attr]
            self._logged_step = int(state["logged_step"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_rng_state(checkpoint)
            return
        with _name_damage(checkpoint):
            generators = read_state(Path(checkpoint))["random"]
            if len(generators) == self.args.world_size:
                _set_random_state(generators[self.args.process_index])


class _RunProgress(TrainerCallback):
    """Counts epochs by samples, as the Trainer takes all steps for one epoch; keeps the learning rates of a step."""

    def __init__(self, epochs_per_step: float) -> None:
        self._epochs_per_step = epochs_per_step
        self.learning_rates: dict[str, float] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep the learning rate of each parameter group, before the schedule's next step."""
        groups = _unwrap(kwargs["optimizer"]).param_groups
        self.learning_rates = {f"learning_rate/{group.get('name')}": float(group["lr"]) for group in groups}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Set the epoch before it is logged and saved."""
        state.epoch = state.global_step * self._epochs_per_step


@contextmanager
def _name_damage(checkpoint: str) -> Iterator[None]:
    """Translate what torch raises for the values of a damaged state into an error that names its file."""
    try:
        yield
    except PerceptokError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise make_damage_error(Path(checkpoint) / _VALUES_FILE, error) from error


def find_last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step in a folder, or None."""
    checkpoints = list(_list_checkpoints(folder))
    return max(checkpoints)[1] if checkpoints else None


def _remove_old_checkpoints(folder: Path, save_total_limit: int) -> None:
    for _, path in sorted(_list_checkpoints(folder))[:-save_total_limit]:
        shutil.rmtree(path, ignore_errors=True)


def _list_checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit() and path.is_dir():
            yield int(number), path


def _unwrap(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


def _scheduler_state(scheduler: Any) -> dict[str, Any]:
    """A scheduler's state without its functions, which are made anew."""
    return {
        key: [None] * len(value) if key == "lr_lambdas" else value
        for key, value in scheduler.state_dict().items()
        if not callable(value)
    }


_TENSORS_FILE = "state.safetensors"
_VALUES_FILE = "state.json"
_CHECKPOINT_FILES = (
    *(f"adapter/{pattern}" for pattern in ADAPTER_OUTPUT),
    *(_TENSORS_FILE, _VALUES_FILE, "inputs.json", "trainer_state.json"),
)
_TENSOR = "__tensor__"
_TUPLE = "__tuple__"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write nested mappings and lists of numbers, text, None and tensors as JSON and safetensors, without pickle."""
    tensors: dict[str, Tensor] = {}
    values = _flatten(state, tensors)
    save_file(tensors, folder / _TENSORS_FILE)
    with atomic_write(folder / _VALUES_FILE) as file:
        file.write(json.dumps(values).encode())


def read_state(folder: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; raises TrainingError where a file is missing or damaged."""
    try:
        tensors = load_file(folder / _TENSORS_FILE)
        text = read_input(folder / _VALUES_FILE)
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(
            f"{folder}: damaged, the run cannot be resumed from it ({quote_error(error)}); remove it to resume from "
            "the checkpoint before it, or to start again"
        ) from error
    return cast("dict[str, Any]", _restore(parse_json(text, str(folder / _VALUES_FILE), TrainingError), tensors))


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON types; its tensors and arrays go into `tensors`, and their names into the value."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): _flatten(inner, tensors) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_flatten(inner, tensors) for inner in value]}
    if isinstance(value, list):
        return [_flatten(inner, tensors) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds numbers, text and tensors; got {type(value).__name__}")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _TUPLE in value:
            return tuple(_restore(inner, tensors) for inner in value[_TUPLE])
        return {key: _restore(inner, tensors) for key, inner in value.items()}
    return [_restore(inner, tensors) for inner in value] if isinstance(value, list) else value


def _get_random_state() -> dict[str, Any]:
    """The state of every generator that training draws from in this process."""
    state = {"python": random.getstate(), "numpy": _numpy_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _numpy_state() -> Any:
    # The global generator: images are augmented, and workers seeded, by libraries that draw from it.
    return np.random.get_state()  # noqa: NPY002


def _set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `_get_random_state` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
