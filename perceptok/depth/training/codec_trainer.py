"""Training of depth codecs: configuration, folder of a run, and the training loop.

Every random draw of a step is a function of the seed and the step's number alone, and every process draws the whole
step's batch and works on its part. So a run that was killed continues to the same losses, and two processes train what
one trains.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from perceptok.config import apply_overrides, config_from_dict, find_config_file, read_mapping
from perceptok.depth.codec import DepthCodec
from perceptok.depth.metrics import compute_code_usage, compute_squared_errors
from perceptok.depth.networks.grid import GridConfig, extend_decoder_state
from perceptok.depth.networks.quantizer import Quantized, Quantizer, QuantizerConfig
from perceptok.depth.networks.vqvae import DepthVQVAE, ModelConfig, model_config_from_dict, model_config_to_dict
from perceptok.depth.preprocessing import Preprocessing
from perceptok.depth.training.map_dataset import (
    AugmentationConfig,
    MapDataset,
    MapSource,
    augment,
    compute_source_probabilities,
    corrupt_inputs,
)
from perceptok.errors import ConfigError, OutputError, TrainingError, quote_error
from perceptok.files import append_text, atomic_write, check_free_space, open_input, parse_json, read_input
from perceptok.locks import lock_output
from perceptok.tokens import DEPTH

__all__ = ["CollapseWarning", "RunFolder", "TrainingConfig", "TrainingReport", "train_depth_codec"]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run, saved beside the weights.

    Attributes:
        model: The networks.
        quantizer: How the code vectors are learned.
        augmentation: How training maps are augmented.
        max_steps: Number of optimizer steps, in which maps are drawn by source.
        num_train_epochs: Number of epochs instead: each takes every map once, in random order.
        eval_steps: Steps between two evaluations, which are also logged and saved to resume from.
        batch_size: Maps per step, over all processes and accumulated micro-batches together.
        gradient_accumulation_steps: Micro-batches per step.
        learning_rate: Peak learning rate.
        lr_scheduler_type: "cosine" to zero, or "exponential" (0.98 every 500 steps, as in the reference).
        warmup_steps: Steps of linear warmup.
        weight_decay: Weight decay of AdamW, which is Adam where it is 0.
        adam_beta1: AdamW's decay of the mean of gradients.
        adam_beta2: AdamW's decay of the mean of squared gradients.
        max_grad_norm: Maximum gradient norm for gradient clipping; 0 does not clip.
        l1_weight: Weight of the mean absolute error beside the mean squared error (in the networks' [-1, 1]).
        freeze_encoder: Train the decoder alone. Encoder and code vectors stay those of the codec to start from, so
            that every map keeps its codes; settings of `quantizer` have no effect.
        mixed_precision: "no" for float32, or "bf16"; quantisation is float32 in any case.
        source_probabilities: Probabilities of drawing a map from given sources, e.g. {"procedural": 0.6}; the others
            divide the rest in proportion to the square root of their numbers of maps.
        max_source_probability: Limit for every other source, as a fraction of the rest.
        source_limits: Smaller limits, by source.
        min_perplexity: Perplexity of the codes between two evaluations below which `CollapseWarning` is issued.
        seed: Seed of weights and every draw.

    Raises:
        ConfigError: A value is out of range.
    """

    model: ModelConfig = field(default_factory=GridConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    max_steps: int = 10_000
    num_train_epochs: float | None = None
    eval_steps: int = 500
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    lr_scheduler_type: Literal["cosine", "exponential"] = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.02
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    l1_weight: float = 0.0
    freeze_encoder: bool = False
    mixed_precision: Literal["no", "bf16"] = "no"
    source_probabilities: Mapping[str, float] = field(default_factory=dict)
    max_source_probability: float = 0.25
    source_limits: Mapping[str, float] = field(default_factory=dict)
    min_perplexity: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_steps", "eval_steps", "batch_size", "gradient_accumulation_steps", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive; got {getattr(self, name)}")
        for name, known in (("lr_scheduler_type", ("cosine", "exponential")), ("mixed_precision", ("no", "bf16"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")

        if self.num_train_epochs is not None:
            if not self.num_train_epochs > 0:
                raise ConfigError(f"num_train_epochs must be positive; got {self.num_train_epochs}")
            if self.source_probabilities or self.source_limits:
                raise ConfigError(
                    "source_probabilities and source_limits go with max_steps: an epoch takes every map once; leave "
                    "num_train_epochs out, or them"
                )

    def count_steps(self, maps: int) -> int:
        """The number of optimizer steps with that number of training maps."""
        return (
            self.max_steps
            if self.num_train_epochs is None
            else math.ceil(self.num_train_epochs * maps / self.batch_size)
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return {**asdict(self), "model": model_config_to_dict(self.model)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`, with defaults for missing keys.

        Raises:
            ConfigError: A key is unknown, or a value has another type or is out of range.
        """
        if isinstance(values, Mapping) and "model" in values:
            values = {**values, "model": model_config_from_dict(values["model"])}
        return config_from_dict(cls, values)

    @classmethod
    def read(cls, source: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
        """Read the settings from a file, YAML or JSON, or from a preset by its name, such as "aurora".

        Args:
            source: The file, or the name of a preset.
            overrides: Settings that replace those of the file, nested ones by dotted names.

        Raises:
            ConfigError: There is neither, or a setting is unknown, has another type or is out of range.
        """
        values = read_mapping(find_config_file(source, "depth"))
        apply_overrides(values, overrides or {})
        return cls.from_dict(values)


class CollapseWarning(UserWarning):
    """The codebook has collapsed: the codec uses so few codes that they carry little information."""


class TrainingReport(NamedTuple):
    """One line of the log: losses and codes since the line before, and the error on the validation maps.

    `commitment_loss` is the quantiser's own loss, its diversity included. `val_rmse` is the mean over maps of the root
    mean squared error in nearness, NaN without validation maps.
    """

    step: int
    loss: float
    commitment_loss: float
    codes_used: int
    perplexity: float
    val_rmse: float


def train_depth_codec(
    config: TrainingConfig,
    train_maps: MapDataset | Mapping[str, MapSource] | MapSource,
    val_maps: MapDataset | Mapping[str, MapSource] | MapSource | None = None,
    *,
    initial: DepthCodec | None = None,
    output: str | Path | None = None,
    report: Callable[[TrainingReport], None] = lambda _: None,
    advance: Callable[[int, float], None] = lambda _step, _loss: None,
    cpu: bool = False,
) -> DepthCodec:
    """Train a depth codec.

    Args:
        config: The settings.
        train_maps: (nearness, valid) pairs by source, a sequence of such pairs, or a data set built from them; float
            (H, W) in [0, 1] and bool (H, W).
        val_maps: Validation maps in the same forms, which are evaluated for the log only.
        initial: A codec to start from, of the configuration's model or of one with fewer decoder blocks. Its codes
            change their meaning with the training, unless the encoder is frozen.
        output: Folder for the codec, the log and the state to resume from; an unfinished run in it is resumed. By
            default nothing is written.
        report: Called after every evaluation, in the main process.
        advance: Called after every step with its number and loss, in the main process; the loss is NaN except at every
            tenth step.
        cpu: Train on the CPU even where an accelerator is available.

    Returns:
        The codec, its weights rounded to half precision (as they are saved).

    Raises:
        ConfigError: The model of `initial` is not the configuration's, the encoder is to be frozen without `initial`,
            or the batch size cannot be divided.
        TrainingError: No maps, validation maps that are also training maps, a loss that is not finite, or a run of
            another configuration or of other maps in `output`.
        OutputError: Another process is writing `output`, or the disk is full.
    """
    # Without a precision: accelerate keeps that of a process's first training, and refuses another. See `_Learner`.
    accelerator = Accelerator(cpu=cpu)
    train_set, val_set = _to_dataset(train_maps), None if val_maps is None else _to_dataset(val_maps)
    if val_set is not None:
        _refuse_overlap(train_set, val_set)
    run = RunFolder(Path(output), config.to_dict(), train_set.describe()) if output is not None else None
    with run.lock() if run is not None and accelerator.is_main_process else nullcontext():
        trainer = _Trainer(config, train_set, val_set, accelerator, initial)
        start = trainer.restore(run.read_state()) if run is not None and run.has_state else 0
        if run is not None and accelerator.is_main_process:
            run.begin(start, trainer.state(start))
        for result in trainer.train(start, advance):
            if accelerator.is_main_process:
                _warn_of_collapse(result, config)
                report(result)
                if run is not None:
                    run.log(result._asdict())
                    run.write_state(trainer.state(result.step))
        codec = trainer.codec()
        if run is not None and accelerator.is_main_process:
            codec.save_pretrained(run.folder)
            run.finish()
        accelerator.wait_for_everyone()
    return codec


def _to_dataset(maps: MapDataset | Mapping[str, MapSource] | MapSource) -> MapDataset:
    if isinstance(maps, MapDataset):
        return maps
    return MapDataset.build(maps if isinstance(maps, Mapping) else {"maps": maps})


def _refuse_overlap(train_set: MapDataset, val_set: MapDataset) -> None:
    """Maps are compared by content: a copy under another name is still the same map."""
    both = train_set.hash_maps() & val_set.hash_maps()
    if both:
        raise TrainingError(
            f"{len(both)} of the {len(val_set)} validation maps are training maps too, so an error measured on them "
            "would mean nothing. Split by scene or source"
        )


def _warn_of_collapse(result: TrainingReport, config: TrainingConfig) -> None:
    if result.perplexity < config.min_perplexity:
        warnings.warn(
            f"the codebook has collapsed: perplexity {result.perplexity:.1f} of {DEPTH.size} at step {result.step} "
            f"({result.codes_used} codes used). Use kmeans_init and threshold_ema_dead_code, or a lower learning rate",
            CollapseWarning,
            stacklevel=3,
        )


class _Learner(nn.Module):
    """Model and quantiser as the one module that accelerate wraps."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.model = DepthVQVAE(config.model)
        self.quantizer = Quantizer(config.quantizer, config.model.codebook_size, config.model.codebook_dim)
        self.l1_weight = config.l1_weight
        self.freeze_encoder = config.freeze_encoder
        if config.freeze_encoder:
            self.model.encoder.requires_grad_(False)
            self.quantizer.requires_grad_(False)
        self.bf16 = config.mixed_precision == "bf16"

    def forward(self, inputs: Tensor, maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets (B, S, S) in [-1, 1] and masks -> reconstruction loss, commitment loss, codes.

        The networks run in the configuration's precision, whatever an accelerator of the process has set.
        """
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            quantized = self._quantize(inputs)
            decoded = self.model.reconstruct(quantized.vectors)[:, 0]
        error = (decoded - maps) * valid
        pixels = valid.sum((1, 2)).clamp(min=1)
        # Map by map, so that a map with holes counts like one without, and parts of a batch average to the whole.
        loss = error.square().sum((1, 2)) / pixels
        if self.l1_weight:
            loss = loss + self.l1_weight * error.abs().sum((1, 2)) / pixels
        return loss.mean(), quantized.loss, quantized.codes

    def _quantize(self, inputs: Tensor) -> Quantized:
        if not self.freeze_encoder:
            quantized: Quantized = self.quantizer(self.model.compute_features(inputs[:, None]))
            return quantized
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            codes = self.model.compute_distances(self.model.compute_features(inputs[:, None])).argmin(-1)
            return Quantized(self.model.look_up_vectors(codes), codes, inputs.new_zeros(()))


class _Trainer:
    def __init__(
        self,
        config: TrainingConfig,
        train_set: MapDataset,
        val_set: MapDataset | None,
        accelerator: Accelerator,
        initial: DepthCodec | None,
    ) -> None:
        self.initial = initial.model if initial is not None else None
        if self.initial is not None and not _is_extended(self.initial.config, config.model):
            raise ConfigError(f"the codec to start from is a {self.initial.config}, the configuration's {config.model}")
        if config.freeze_encoder and self.initial is None:
            raise ConfigError("freeze_encoder trains the decoder of a trained encoder: give a codec to start from")
        self.config, self.accelerator, self.device = config, accelerator, accelerator.device
        parts = accelerator.num_processes * config.gradient_accumulation_steps
        if config.batch_size % parts:
            raise ConfigError(
                f"batch_size {config.batch_size} must be a multiple of processes x gradient_accumulation_steps = "
                f"{parts}"
            )
        self.max_steps = config.count_steps(len(train_set))
        # On an accelerator the maps are kept in its memory: 50,000 take 15 GB and indexing them there costs nothing.
        self.train_set = train_set.to(self.device) if self.device.type != "cpu" else train_set
        self.val_set = val_set
        self.preprocessing = initial.preprocessing if initial is not None else Preprocessing()
        probabilities = compute_source_probabilities(
            train_set.sources, config.source_probabilities, config.max_source_probability, config.source_limits
        )
        names = np.array(train_set.sources)
        self.groups = [np.flatnonzero(names == name) for name in probabilities]
        self.probabilities = np.array(list(probabilities.values()))
        torch.manual_seed(config.seed)
        learner = _Learner(config)
        if self.initial is not None:
            learner.model.load_state_dict(extend_decoder_state(self.initial.state_dict(), learner.model))
        groups = [
            {"params": [p for p in learner.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in learner.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            fused=self.device.type == "cuda",
        )
        self.learner, self.optimizer = accelerator.prepare(learner, optimizer)

    @property
    def unwrapped(self) -> _Learner:
        learner: _Learner = self.accelerator.unwrap_model(self.learner)
        return learner

    def train(self, start: int, advance: Callable[[int, float], None]) -> Iterator[TrainingReport]:
        """Train from a step to the end, reporting after every `eval_steps` steps and after the last."""
        losses: list[Tensor] = []
        counts = torch.zeros(self.config.model.codebook_size, device=self.device)
        if start == 0:
            self._initialise_codebook()
        for step in range(start, self.max_steps):
            losses.append(self._step(step, counts))
            done = step + 1
            advance(done, float(losses[-1][0]) if done % 10 == 0 else math.nan)
            if done % self.config.eval_steps == 0 or done == self.max_steps:
                yield self._evaluate(done, torch.stack(losses).mean(0), counts)
                losses.clear()
                counts.zero_()

    def _step(self, step: int, counts: Tensor) -> Tensor:
        """Take one optimizer step; adds to the counts of codes, returns (reconstruction, commitment) losses."""
        torch.manual_seed(_derive_seed(self.config.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = self._compute_learning_rate(step)
        total = torch.zeros(2, device=self.device)
        last_replacement = round(self.config.quantizer.dead_code_ratio * self.max_steps)
        self.unwrapped.quantizer.replace_dead_codes(step < last_replacement)
        self.learner.train()
        for inputs, maps, valid in self._draw_micro_batches(step):
            loss, commitment, codes = self.learner(inputs, maps, valid)
            self.accelerator.backward((loss + commitment) / self.config.gradient_accumulation_steps)
            # Not bincount, which waits for the device.
            counts.index_add_(0, codes.flatten(), torch.ones(codes.numel(), device=self.device))
            total += torch.stack([loss.detach(), commitment.detach()]) / self.config.gradient_accumulation_steps
        if self.config.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.learner.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _draw_indices(self, step: int) -> np.ndarray:
        """The maps of a step, drawn by source."""
        rng = np.random.default_rng([self.config.seed, step])
        sources = rng.choice(len(self.groups), size=self.config.batch_size, p=self.probabilities)
        positions = rng.random(self.config.batch_size)
        return np.array(
            [
                self.groups[source][int(position * len(self.groups[source]))]
                for source, position in zip(sources, positions, strict=True)
            ]
        )

    def _take_indices(self, step: int) -> np.ndarray:
        """The maps of a step in the random order of its epoch; a batch may begin in one epoch and end in the next."""
        count, size = len(self.train_set), self.config.batch_size
        places = np.arange(step * size, (step + 1) * size)
        epochs, inside = places // count, places % count
        orders = {
            epoch: np.random.default_rng([self.config.seed, epoch, 1]).permutation(count)
            for epoch in np.unique(epochs).tolist()
        }
        return np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), inside, strict=True)])

    def _draw_micro_batches(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's micro-batches of a step: inputs, targets and masks."""
        generator = torch.Generator().manual_seed(_derive_seed(self.config.seed, step))
        indices = self._draw_indices(step) if self.config.num_train_epochs is None else self._take_indices(step)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        for part in range(self.config.gradient_accumulation_steps):
            micro = indices[part :: self.config.gradient_accumulation_steps]
            batch = self.train_set.load_batch(micro, self.device)
            maps, valid = augment(batch.maps, batch.valid, self.config.augmentation, generator)
            inputs = corrupt_inputs(maps, self.config.augmentation, generator)
            to_network = self.preprocessing.to_network
            # Consecutive maps, so that the processes' features, one after the other, are in the order of the batch.
            size = len(micro) // processes
            own = slice(rank * size, (rank + 1) * size)
            yield to_network(inputs)[own], to_network(maps)[own], valid[own]

    def _initialise_codebook(self) -> None:
        """Initialise the code vectors from the first batch, in every process alike, without learning from it."""
        torch.manual_seed(self.config.seed)
        with torch.no_grad():
            inputs, _, _ = next(self._draw_micro_batches(0))
            features = self.unwrapped.model.compute_features(inputs[:, None])
            if self.initial is None:
                self.unwrapped.quantizer.initialise(features)
            else:
                self.unwrapped.quantizer.load_codebook(self.initial.codebook.to(self.device), features)

    def _compute_learning_rate(self, step: int) -> float:
        config = self.config
        if config.lr_scheduler_type == "cosine":
            decay = 0.5 + 0.5 * math.cos(math.pi * step / self.max_steps)
        else:
            decay = 0.98 ** (step // 500)
        return config.learning_rate * decay * min(1.0, (step + 1) / max(1, config.warmup_steps))

    def _evaluate(self, step: int, losses: Tensor, counts: Tensor) -> TrainingReport:
        loss, commitment_loss = self.accelerator.reduce(losses, "mean").tolist()
        usage = compute_code_usage(self.accelerator.reduce(counts, "sum"))
        if not math.isfinite(loss + commitment_loss):
            raise TrainingError(
                f"the loss is not finite at step {step}: lower learning_rate ({self.config.learning_rate:g}), or train "
                "in float32; the last saved state is kept"
            )
        val_rmse = self._validate() if self.val_set is not None else math.nan
        return TrainingReport(step, loss, commitment_loss, usage.used, usage.perplexity, val_rmse)

    def _validate(self) -> float:
        """Mean over the validation maps of the RMSE in nearness, the maps divided among the processes."""
        assert self.val_set is not None
        model = self._build_trained_model()
        own = np.arange(len(self.val_set))[self.accelerator.process_index :: self.accelerator.num_processes]
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for start in range(0, len(own), 32):
                batch = self.val_set.load_batch(own[start : start + 32], self.device)
                features = model.compute_features(self.preprocessing.to_network(batch.maps)[:, None])
                distances = model.compute_distances(features)
                maps = model.reconstruct(model.look_up_vectors(distances.argmin(-1)))[:, 0]
                decoded = self.preprocessing.from_network(maps).clamp(0, 1)
                rmse = compute_squared_errors(decoded, batch.maps, batch.valid).sqrt()
                total += torch.stack([rmse.sum(), torch.tensor(float(len(rmse)), device=self.device)])
        summed, count = self.accelerator.reduce(total, "sum").tolist()
        return float(summed / count)

    def _build_trained_model(self) -> DepthVQVAE:
        """The model at this step, with the quantiser's code vectors."""
        model = self.unwrapped.model.eval()
        model.codebook.copy_(self.unwrapped.quantizer.codebook)
        return model

    def codec(self) -> DepthCodec:
        model = self._build_trained_model().float()
        # Rounded here, once: the figures measured on this codec are then those of the saved one.
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half().float())
        return DepthCodec(model, self.preprocessing)

    def state(self, step: int) -> dict[str, Tensor]:
        tensors = {f"learner.{key}": value for key, value in self.unwrapped.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return {**tensors, "step": torch.tensor(step)}

    def restore(self, tensors: dict[str, Tensor]) -> int:
        """Load what `state` returned; returns the step."""
        prefix = "learner."
        self.unwrapped.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        return int(tensors["step"])


def _is_extended(initial: ModelConfig, config: ModelConfig) -> bool:
    """Whether the configuration is the initial one, or differs from it in having more decoder blocks alone."""
    if not (isinstance(initial, GridConfig) and isinstance(config, GridConfig)):
        return initial == config
    old, new = initial.for_decoder().blocks, config.for_decoder().blocks
    return replace(initial, decoder_blocks=None) == replace(config, decoder_blocks=None) and all(
        before <= after for before, after in zip(old, new, strict=True)
    )


def _derive_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


_CONFIG = "training.json"
_LOG = "log.csv"
_MAPS = "maps.json"
_STATE = "resume.safetensors"


class RunFolder:
    """The folder of a run: `training.json`, `maps.json`, `log.csv`, and `resume.safetensors` until it is finished.

    Args:
        folder: Created where missing.
        config: The run's configuration, as plain JSON types.
        maps: Identifies the training maps, as `MapDataset.describe` gives it.

    Raises:
        TrainingError: The folder holds a run of another configuration or of other maps, or a finished one.
        OutputError: The folder cannot be created.
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
            self._refuse_other_config()
            if (folder / "model.safetensors").exists() and not self.has_state:
                raise TrainingError(f"{folder} holds a finished run; choose another folder to train again")
        if self.has_state and (folder / _MAPS).exists():
            self._refuse_other_maps()

    def _read(self, path: Path) -> bytes:
        try:
            return read_input(path)
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read ({error.strerror})") from error

    def _refuse_other_config(self) -> None:
        path = self.folder / _CONFIG
        found = parse_json(self._read(path), str(path), TrainingError)
        if not isinstance(found, dict):
            raise TrainingError(f"{path} is not a training configuration; choose another folder")
        if found != self.config:
            wrong = next(key for key in sorted(found | self.config) if found.get(key) != self.config.get(key))
            raise TrainingError(
                f"{self.folder} holds a run of another configuration: {wrong} was {found.get(wrong)!r}, now "
                f"{self.config.get(wrong)!r}. Choose another folder, or give the same configuration to resume"
            )

    def _refuse_other_maps(self) -> None:
        path = self.folder / _MAPS
        found = parse_json(self._read(path), str(path), TrainingError)
        if found != self.maps:
            raise TrainingError(
                f"{self.folder} holds a run on other maps: {_count_maps(found)}, now {_count_maps(self.maps)}. "
                "Choose another folder, or give the same maps to resume"
            )

    def lock(self) -> AbstractContextManager[None]:
        """Keep every other process from writing into the folder."""
        return lock_output(self.folder)

    @property
    def has_state(self) -> bool:
        """Whether the folder has a state to resume from."""
        return (self.folder / _STATE).exists()

    def read_state(self) -> dict[str, Tensor]:
        """Read the tensors that `write_state` saved last."""
        try:
            with open_input(self.folder / _STATE):  # a regular file: safetensors would wait for a pipe
                return load_file(self.folder / _STATE)
        except (SafetensorError, OSError) as error:
            raise TrainingError(
                f"{self.folder / _STATE} is damaged ({quote_error(error)}); remove it to start again"
            ) from error

    def begin(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Check the free space, write the configuration, and remove lines of the log that are newer than the state."""
        # Twice: the state before is kept until the new one is complete.
        check_free_space(self.folder, 2 * sum(value.numel() * value.element_size() for value in state.values()))
        for name, values in ((_CONFIG, self.config), (_MAPS, self.maps)):
            with atomic_write(self.folder / name, force=True) as file:
                file.write((json.dumps(values, indent=2) + "\n").encode())
        if (self.folder / _LOG).exists():
            lines = self._read(self.folder / _LOG).decode(errors="replace").splitlines(keepends=True)
            rows = [row for row in csv.DictReader(lines) if _is_complete(row) and int(row["step"]) <= step]
            text = io.StringIO(newline="")
            if rows:
                writer = csv.DictWriter(text, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            # Replaced as a whole: a kill here must not cost the lines of the log.
            with atomic_write(self.folder / _LOG, force=True) as file:
                file.write(text.getvalue().encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        path = self.folder / _LOG
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(row))
        if not path.exists() or not path.stat().st_size:
            writer.writeheader()
        writer.writerow(row)
        append_text(path, text.getvalue())

    def write_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Save the state to resume from; the previous one is kept until the new one is complete."""
        data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        check_free_space(self.folder, len(data))
        with atomic_write(self.folder / _STATE, force=True) as file:
            file.write(data)

    def finish(self) -> None:
        """Remove the state: the run is finished, and the codec is saved beside the log."""
        (self.folder / _STATE).unlink(missing_ok=True)


def _count_maps(maps: object) -> str:
    counts = maps.get("maps") if isinstance(maps, Mapping) else None
    return f"{sum(counts.values())} maps" if isinstance(counts, Mapping) else "unknown maps"


def _is_complete(row: Mapping[str | None, Any]) -> bool:
    """Whether a line of the log is complete: a kill can cut the last one."""
    return None not in row and all(row.values()) and str(row["step"]).isdigit()
