"""What a training run is made of: networks, quantiser, variation of maps, lengths, rates and shares."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from perceptok.config import config_from_dict
from perceptok.depth.codec import DepthCodec
from perceptok.depth.metrics import CodeUsage, code_usage, squared_errors
from perceptok.depth.networks.grid import GridConfig
from perceptok.depth.networks.quantizer import Quantizer, QuantizerConfig
from perceptok.depth.networks.vqvae import DepthVQVAE, ModelConfig, model_config_from_dict, model_config_to_dict
from perceptok.depth.preprocessing import Preprocessing
from perceptok.depth.training.map_bank import AugmentationConfig, MapBank, MapSource, augment, draw_shares, hide_patches
from perceptok.errors import ConfigError, OutputError, TrainingError
from perceptok.files import atomic_write, lock_output, parse_json
from perceptok.tokens import DEPTH

__all__ = ["CollapseWarning", "EpochReport", "RunFolder", "TrainingConfig", "train_depth_codec"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what is trained; saved beside the weights.

    Attributes:
        model: The networks.
        quantizer: How the code vectors are learned.
        augmentation: How training maps are varied.
        steps: Updates of the weights.
        epoch_steps: Updates between two evaluations.
        batch_size: Maps per update, over all processes and accumulated micro-batches together.
        accumulate: Micro-batches per update.
        learning_rate: At its peak.
        schedule: "cosine" to zero, or "exponential" (0.98 every 500 steps, the reference's).
        warmup: Steps until the peak.
        weight_decay: Of AdamW.
        absolute: Weight of the mean absolute error beside the mean squared error (in the networks' [-1, 1]).
        precision: "no" for float32, or "bf16"; quantisation is float32 in any case.
        shares: Set shares of a batch by source, e.g. {"procedural": 0.6}; see `draw_shares`.
        largest_share: Limit for every other source, as a part of the rest.
        caps: Smaller limits, by source.
        collapse_below: Perplexity of an epoch under which `CollapseWarning` is given.
        seed: Of weights and every draw.
    """

    model: ModelConfig = field(default_factory=GridConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    steps: int = 10_000
    epoch_steps: int = 500
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "exponential"] = "cosine"
    warmup: int = 200
    weight_decay: float = 0.02
    absolute: float = 0.0
    precision: Literal["no", "bf16"] = "no"
    shares: Mapping[str, float] = field(default_factory=dict)
    largest_share: float = 0.25
    caps: Mapping[str, float] = field(default_factory=dict)
    collapse_below: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "epoch_steps", "batch_size", "accumulate", "learning_rate")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive; got {getattr(self, name)}")
        for name, known in (("schedule", ("cosine", "exponential")), ("precision", ("no", "bf16"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "model": model_config_to_dict(self.model)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`, missing keys taking their defaults; raises ConfigError as `config_from_dict`."""
        if isinstance(values, Mapping) and "model" in values:
            values = {**values, "model": model_config_from_dict(values["model"])}
        return config_from_dict(cls, values)


_CONFIG = "training.json"
_LOG = "log.csv"
_MAPS = "maps.json"
_STATE = "resume.safetensors"


class RunFolder:
    """Where a run writes: `training.json`, `maps.json`, `log.csv`, and `resume.safetensors` until it is done.

    Args:
        folder: Made where missing.
        config: Of the run, as plain JSON types.
        maps: What identifies the training maps; see `MapBank.identity`.

    Raises:
        TrainingError: The folder holds a run of another configuration or of other maps, or one that is done.
        OutputError: The folder cannot be made.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], maps: Mapping[str, Any]) -> None:
        self.folder = folder
        self.maps = dict(maps)
        self.config = json.loads(json.dumps(config))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        if (folder / _CONFIG).exists():
            found = parse_json((folder / _CONFIG).read_bytes(), str(folder / _CONFIG), TrainingError)
            if not isinstance(found, dict):
                raise TrainingError(f"{folder / _CONFIG} is no configuration of a run; choose another folder")
            if found != self.config:
                wrong = next(key for key in sorted(found | self.config) if found.get(key) != self.config.get(key))
                raise TrainingError(
                    f"{folder} holds a run of another configuration: {wrong} was {found.get(wrong)!r}, now "
                    f"{self.config.get(wrong)!r}. Choose another folder, or the same configuration to go on"
                )
            if (folder / "model.safetensors").exists() and not self.has_state:
                raise TrainingError(f"{folder} holds a finished run; choose another folder to train again")
        if self.has_state:
            self._refuse_other_maps()

    def held(self) -> AbstractContextManager[None]:
        """Keeps every other process from writing into the folder."""
        return lock_output(self.folder)

    def _refuse_other_maps(self) -> None:
        path = self.folder / _MAPS
        if not path.exists():  # of an earlier release
            return
        begun = parse_json(path.read_bytes(), str(path), TrainingError)
        if begun != self.maps:
            raise TrainingError(
                f"{self.folder} holds a run that was begun on other maps: {_counted(begun)}, now "
                f"{_counted(self.maps)}. Choose another folder, or give the same maps to go on"
            )

    @property
    def has_state(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.folder / _STATE).exists()

    def read_state(self) -> dict[str, Tensor]:
        """The tensors that `write_state` saved last."""
        try:
            return load_file(self.folder / _STATE)
        except SafetensorError as error:
            raise TrainingError(f"{self.folder / _STATE} is damaged ({error}); remove it to start again") from error

    def begin(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Check that there is room, write the configuration, and forget lines of the log younger than the state."""
        self._refuse_full_disk(sum(value.numel() * value.element_size() for value in state.values()))
        with atomic_write(self.folder / _CONFIG, force=True) as file:
            file.write((json.dumps(self.config, indent=2) + "\n").encode())
        with atomic_write(self.folder / _MAPS, force=True) as file:
            file.write((json.dumps(self.maps, indent=2) + "\n").encode())
        if (self.folder / _LOG).exists():
            with (self.folder / _LOG).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= step]
            # Whole or as it was: a kill here must not cost the lines of the log.
            text = io.StringIO(newline="")
            if rows:
                writer = csv.DictWriter(text, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            with atomic_write(self.folder / _LOG, force=True) as out:
                out.write(text.getvalue().encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        path = self.folder / _LOG
        new = not path.exists() or not path.stat().st_size
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def write_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Save the state to resume from; the one before stays whole until the new one is."""
        data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        self._refuse_full_disk(len(data))
        with atomic_write(self.folder / _STATE, force=True) as file:
            file.write(data)

    def finish(self) -> None:
        """Remove the state: the run is done, and the codec is saved beside the log."""
        (self.folder / _STATE).unlink(missing_ok=True)

    def _refuse_full_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < 2 * needed:
            raise OutputError(
                f"{self.folder}: {free / 2**20:.0f} MB left on the disk, but a checkpoint needs {needed / 2**20:.0f}, "
                "twice while the old one is replaced; make room and give the same command again: a run goes on from "
                "its last checkpoint"
            )


def _counted(maps: object) -> str:
    counts = maps.get("maps") if isinstance(maps, Mapping) else None
    return f"{sum(counts.values())} maps" if isinstance(counts, Mapping) else "unknown ones"


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """A kill can leave half a line at the end."""
    return None not in row and all(row.values()) and str(row["step"]).isdigit()


# Training a depth codec: in one process or several, and resumable after a kill at any moment.
#
# Every random draw of a step is a function of the seed and the step's number alone, and every process draws the whole
# step's batch and works on its part. So a run that was killed goes on to the same losses, and two processes train what
# one trains.


class CollapseWarning(UserWarning):
    """The codes of an epoch have collapsed onto a few: the codec can say almost nothing."""


class EpochReport(NamedTuple):
    """One line of the log: what was trained since the line before, and how it does on the validation maps.

    `commitment` is the quantiser's own loss, its diversity included. `val_rmse` is the mean over maps of the root mean
    squared error in nearness, NaN without validation maps.
    """

    step: int
    loss: float
    commitment: float
    used: int
    perplexity: float
    val_rmse: float


def train_depth_codec(
    config: TrainingConfig,
    train_maps: MapBank | Mapping[str, MapSource] | MapSource,
    val_maps: MapBank | Mapping[str, MapSource] | MapSource | None = None,
    *,
    initial: DepthCodec | None = None,
    output: str | Path | None = None,
    report: Callable[[EpochReport], None] = lambda _: None,
    advance: Callable[[int, float], None] = lambda _step, _loss: None,
    cpu: bool = False,
) -> DepthCodec:
    """Train a depth codec.

    Args:
        config: What to train.
        train_maps: (nearness, valid) pairs by source, a sequence of such pairs, or a bank built from them.
        val_maps: The same, for the figures in the log; nothing is decided by them.
        initial: A codec to go on from, of the configuration's model; its codes change their meaning with the training.
        output: Folder for the codec, the log and the state to resume from; a run found there is continued. Without it
            nothing is written.
        report: Called after every epoch, in the main process.
        advance: Called after every update with its number and loss, in the main process.
        cpu: Stay on the CPU where there is an accelerator.

    Returns:
        The codec, its weights rounded to half precision (as they are saved).

    Raises:
        ConfigError: The model of `initial` is another one than the configuration's.
        TrainingError: No maps, validation maps that are also training maps, a loss that is not finite, or a run of
            another configuration or of other maps in `output`.
        OutputError: Another process is writing `output`.
    """
    accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
    bank, val_bank = _banked(train_maps), None if val_maps is None else _banked(val_maps)
    if val_bank is not None:
        _refuse_overlap(bank, val_bank)
    run = RunFolder(Path(output), config.to_dict(), bank.identity()) if output is not None else None
    with run.held() if run is not None and accelerator.is_main_process else nullcontext():
        trainer = _Trainer(config, bank, val_bank, accelerator, initial)
        start = trainer.restore(run.read_state()) if run is not None and run.has_state else 0
        if run is not None and accelerator.is_main_process:
            run.begin(start, trainer.state(start))
        for epoch in trainer.epochs(start, advance):
            if accelerator.is_main_process:
                _alarm(epoch, config)
                report(epoch)
                if run is not None:
                    run.log(epoch._asdict())
                    run.write_state(trainer.state(epoch.step))
        codec = trainer.codec()
        if run is not None and accelerator.is_main_process:
            codec.save_pretrained(run.folder)
            run.finish()
        accelerator.wait_for_everyone()
    return codec


class _Learner(nn.Module):
    """Model and quantiser as the one module that accelerate wraps."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.model = DepthVQVAE(config.model)
        self.quantizer = Quantizer(config.quantizer, config.model.codebook_size, config.model.codebook_dim)
        self.absolute = config.absolute

    def forward(self, seen: Tensor, maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input, target (B, S, S) in [-1, 1] and mask -> reconstruction loss, commitment loss, codes."""
        quantized = self.quantizer(self.model.features(seen[:, None]))
        error = (self.model.reconstruct(quantized.vectors)[:, 0] - maps) * valid
        pixels = valid.sum((1, 2)).clamp(min=1)
        # Map by map, so that a map with holes counts like one without, and parts of a batch average to the whole.
        loss = error.square().sum((1, 2)) / pixels
        if self.absolute:
            loss = loss + self.absolute * error.abs().sum((1, 2)) / pixels
        return loss.mean(), quantized.loss, quantized.codes


class _Trainer:
    def __init__(
        self,
        config: TrainingConfig,
        bank: MapBank,
        val_bank: MapBank | None,
        accelerator: Accelerator,
        initial: DepthCodec | None,
    ) -> None:
        self.initial = initial.model if initial is not None else None
        if self.initial is not None and self.initial.config != config.model:
            raise ConfigError(f"the codec to go on from is a {self.initial.config}, the configuration's {config.model}")
        self.config, self.accelerator, self.device = config, accelerator, accelerator.device
        parts = accelerator.num_processes * config.accumulate
        if config.batch_size % parts:
            raise ConfigError(f"batch_size {config.batch_size} must be a multiple of processes x accumulate = {parts}")
        # On an accelerator the maps live in its memory: 50,000 take 15 GB and indexing them there costs nothing.
        self.bank = bank.to(self.device) if self.device.type != "cpu" else bank
        self.val_bank = val_bank
        self.preprocessing = initial.preprocessing if initial is not None else Preprocessing()
        shares = draw_shares(bank.sources, config.shares, config.largest_share, config.caps)
        names = np.array(bank.sources)
        self.groups = [np.flatnonzero(names == name) for name in shares]
        self.shares = np.array(list(shares.values()))
        torch.manual_seed(config.seed)
        learner = _Learner(config)
        if self.initial is not None:
            learner.model.load_state_dict(self.initial.state_dict())
        groups = [
            {"params": [p for p in learner.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in learner.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.learner, self.optimizer = accelerator.prepare(learner, optimizer)

    @property
    def bare(self) -> _Learner:
        learner: _Learner = self.accelerator.unwrap_model(self.learner)
        return learner

    def epochs(self, start: int, advance: Callable[[int, float], None]) -> Iterator[EpochReport]:
        """Train from a step to the end, reporting after every `epoch_steps` updates and after the last."""
        losses: list[Tensor] = []
        counts = torch.zeros(self.config.model.codebook_size, device=self.device)
        if start == 0:
            self._seed_codebook()
        for step in range(start, self.config.steps):
            update = self._update(step, counts)
            losses.append(update)
            done = step + 1
            advance(done, float(update[0]) if done % 10 == 0 else math.nan)
            if done % self.config.epoch_steps == 0 or done == self.config.steps:
                yield self._report(done, torch.stack(losses).mean(0), counts)
                losses.clear()
                counts.zero_()

    def _update(self, step: int, counts: Tensor) -> Tensor:
        """One update of the weights; adds to the counts of codes, returns (reconstruction, commitment) losses."""
        torch.manual_seed(_step_seed(self.config.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        total = torch.zeros(2, device=self.device)
        self.bare.quantizer.revive(step < round(self.config.quantizer.revive_until * self.config.steps))
        self.learner.train()
        for seen, maps, valid in self._parts(step):
            with self.accelerator.autocast():
                loss, commitment, codes = self.learner(seen, maps, valid)
            self.accelerator.backward((loss + commitment) / self.config.accumulate)
            counts += torch.bincount(codes.flatten(), minlength=len(counts))
            total += torch.stack([loss.detach(), commitment.detach()]) / self.config.accumulate
        self.accelerator.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _parts(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's micro-batches of a step: input, target and mask."""
        rng = np.random.default_rng([self.config.seed, step])
        generator = torch.Generator().manual_seed(_step_seed(self.config.seed, step))
        sources = rng.choice(len(self.groups), size=self.config.batch_size, p=self.shares)
        places = rng.random(self.config.batch_size)
        indices = np.array(
            [self.groups[s][int(place * len(self.groups[s]))] for s, place in zip(sources, places, strict=True)]
        )
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        for part in range(self.config.accumulate):
            micro = indices[part :: self.config.accumulate]
            batch = self.bank.batch(micro, self.device)
            maps, valid = augment(batch.maps, batch.valid, self.config.augmentation, generator)
            seen = hide_patches(maps, self.config.augmentation, generator)
            to_network = self.preprocessing.to_network
            # Consecutive maps, so that the processes' features, one after the other, are in the order of the batch.
            share = len(micro) // processes
            mine = slice(rank * share, (rank + 1) * share)
            yield to_network(seen)[mine], to_network(maps)[mine], valid[mine]

    def _seed_codebook(self) -> None:
        """Show the quantiser the first batch without learning from it, so that every process places codes alike."""
        torch.manual_seed(self.config.seed)
        with torch.no_grad():
            seen, _, _ = next(self._parts(0))
            features = self.bare.model.features(seen[:, None])
            if self.initial is None:
                self.bare.quantizer.initialise(features)
            else:
                self.bare.quantizer.take(self.initial.codebook.to(self.device), features)

    def _learning_rate(self, step: int) -> float:
        config = self.config
        if config.schedule == "cosine":
            decay = 0.5 + 0.5 * math.cos(math.pi * step / config.steps)
        else:
            decay = 0.98 ** (step // 500)
        return config.learning_rate * decay * min(1.0, (step + 1) / max(1, config.warmup))

    def _report(self, step: int, losses: Tensor, counts: Tensor) -> EpochReport:
        losses = self.accelerator.reduce(losses, "mean")
        usage: CodeUsage = code_usage(self.accelerator.reduce(counts, "sum"))
        loss, commitment = losses.tolist()
        if not math.isfinite(loss + commitment):
            raise TrainingError(
                f"the loss is not finite at step {step}: lower learning_rate ({self.config.learning_rate:g}), or train "
                "in float32; the state of the last epoch is kept"
            )
        val_rmse = self._validate() if self.val_bank is not None else math.nan
        return EpochReport(step, loss, commitment, usage.used, usage.perplexity, val_rmse)

    def _validate(self) -> float:
        """Mean over the validation maps of the RMSE in nearness, the maps divided among the processes."""
        assert self.val_bank is not None
        model = self._trained()
        mine = np.arange(len(self.val_bank))[self.accelerator.process_index :: self.accelerator.num_processes]
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for start in range(0, len(mine), 32):
                batch = self.val_bank.batch(mine[start : start + 32], self.device)
                distances = model.distances(model.features(self.preprocessing.to_network(batch.maps)[:, None]))
                maps = model.reconstruct(model.vectors(distances.argmin(-1)))[:, 0]
                decoded = self.preprocessing.from_network(maps).clamp(0, 1)
                rmse = squared_errors(decoded, batch.maps, batch.valid).sqrt()
                total += torch.stack([rmse.sum(), torch.tensor(float(len(rmse)), device=self.device)])
        summed, count = self.accelerator.reduce(total, "sum").tolist()
        return float(summed / count)

    def _trained(self) -> DepthVQVAE:
        """The model as it stands, with the quantiser's code vectors."""
        model = self.bare.model.eval()
        model.codebook.copy_(self.bare.quantizer.codebook)
        return model

    def codec(self) -> DepthCodec:
        model = self._trained().float()
        # Rounded here, once: the figures measured on this codec are then those of the saved one.
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half().float())
        return DepthCodec(model, self.preprocessing)

    def state(self, step: int) -> dict[str, Tensor]:
        tensors = {f"learner.{key}": value for key, value in self.bare.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return {**tensors, "step": torch.tensor(step)}

    def restore(self, tensors: dict[str, Tensor]) -> int:
        prefix = "learner."
        self.bare.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
        state = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**state, "state": moments})
        return int(tensors["step"])


def _banked(maps: MapBank | Mapping[str, MapSource] | MapSource) -> MapBank:
    if isinstance(maps, MapBank):
        return maps
    return MapBank.build(maps if isinstance(maps, Mapping) else {"maps": maps})


def _refuse_overlap(train: MapBank, val: MapBank) -> None:
    """Maps are compared by content: a copy under another name is still the same map."""
    both = train.digests() & val.digests()
    if both:
        raise TrainingError(
            f"{len(both)} of the {len(val)} validation maps are training maps too: an error measured on them says "
            "nothing. Split by scene or source"
        )


def _alarm(epoch: EpochReport, config: TrainingConfig) -> None:
    if epoch.perplexity < config.collapse_below:
        warnings.warn(
            f"the codebook has collapsed: perplexity {epoch.perplexity:.1f} of {DEPTH.size} at step {epoch.step} "
            f"({epoch.used} codes used). Use kmeans_init and revive_below, or a lower learning rate",
            CollapseWarning,
            stacklevel=3,
        )


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
