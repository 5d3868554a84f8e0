"""Training the small LLaVA: scenes with features computed once, atomic depth generation by Eq. 1, and answers.

The scenes are yards in haze: a fixed camera, a floor, a back wall, and two to five objects on the floor. Haze fades
every color with distance, so that depth can be told from a small patch: scenes that ten minutes of training can learn.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from perceptok.config import config_from_dict
from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor, parse_generation
from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, ConfigError, TrainingError, quote_error
from perceptok.files import atomic_write
from perceptok.llava.grid_tower import GridTower
from perceptok.llava.small.model import make_depth_batch, make_prompt_ids
from perceptok.losses import distillation_loss, next_token_targets
from perceptok.precision import choose_dtype
from perceptok.scenes import Camera, Rendering, Scene, SceneObject, box, cylinder, ellipsoid, place, quad, render
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

_WALL = 9.0
_EYE = 1.5
_HAZE = 3.5
"""Metres over which haze takes 1 - 1/e of a color."""
_HAZE_COLOR = np.array([225, 230, 235], dtype=np.float32)
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_CHUNK, _PART = 32, 320
"""Scenes that are computed at once, and that a file of the cache holds."""
_BATCH = 32
_MAX_NEW_TOKENS = 128
"""Tokens of an answer: the words before the block, 102 tokens, the full stop and the end."""


@dataclass(frozen=True, eq=False)
class YardImage:
    """An image of a yard with its ground truth.

    Attributes:
        image: (size, size, 3) uint8.
        nearness: (320, 320) float32 in [0, 1], 1 = nearest: inverse depth, scaled from its minimum to its maximum.
        rendering: Depth in metres and instances, 320x320.
    """

    image: NDArray[np.uint8]
    nearness: NDArray[np.float32]
    rendering: Rendering


def render_yard(seed: int, index: int, size: int = 160) -> YardImage:
    """Render scene `index` of a seed: ground truth at the codec's 320x320, the image at size x size pixels."""
    scene = _sample_yard(seed, index)
    rendering = render(scene, 320, 320)
    inverse = 1 / rendering.depth  # infinitely far is 0
    nearness = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    small = rendering if size == 320 else render(scene, size, size)
    clear = np.exp(-np.minimum(small.depth, 100.0) / _HAZE)[..., None]
    image = small.rgb().astype(np.float32) * clear + _HAZE_COLOR * (1 - clear)
    return YardImage(np.rint(image).astype(np.uint8), nearness.astype(np.float32), rendering)


def _sample_yard(seed: int, index: int) -> Scene:
    rng = np.random.default_rng([seed, index, 77])
    objects = [
        SceneObject("floor", (quad((4.5, 0, 0), (5.0, 0, 0), (0, 8.0, 0)),), (0.45, 0.5, 0.4)),
        SceneObject("wall", (quad((_WALL, 0, 2), (0, 8.0, 0), (0, 0, 4.0)),), (0.5, 0.45, 0.45)),
    ]
    for _ in range(int(rng.integers(2, 6))):
        away = 1 / rng.uniform(1 / 7.0, 1 / 2.0)
        aside = rng.uniform(-0.5, 0.5) * away
        wide, high = rng.uniform(0.35, 0.75), rng.uniform(0.7, 2.2)
        kind = str(rng.choice(["box", "ball", "pillar"]))
        if kind == "box":
            part = box((0, 0, high / 2), (2 * wide, 2 * wide, high))
        elif kind == "ball":
            part = ellipsoid((0, 0, wide), wide)
        else:
            part = cylinder((0, 0, 0), (0, 0, high), wide * 0.7)
        red, green, blue = rng.uniform(0.05, 0.6, 3).tolist()
        objects.append(SceneObject(kind, place([part], (away + wide, aside, 0.0)), (red, green, blue)))
    camera = Camera.aimed((0.0, 0.0, _EYE), pitch=-12, fov=60)
    return Scene(tuple(objects), camera, "yard", light=(-0.6, 0.4, 1.0))


@dataclass(frozen=True, eq=False)
class SmallDataset:
    """Images in arrays, with the outputs of the frozen tower and of the codec.

    Attributes:
        images: (N, S, S, 3) uint8.
        nearness: (N, 160, 160) float16, every second row and column.
        codes: (N, 100) int64.
        features: (N, 100, C) float16, of the tower.
        teacher: (N, 100, 128) float16, the codec's probabilities (`encode_soft`); rows sum to 1 within float16.
    """

    images: NDArray[np.uint8]
    nearness: NDArray[np.float16]
    codes: Tensor
    features: Tensor
    teacher: Tensor

    def __len__(self) -> int:
        return len(self.codes)


def normalize_images(images: NDArray[np.uint8]) -> Tensor:
    """Images (N, S, S, 3) uint8 -> the tower's input (N, 3, S, S) float32, as the image processor makes it."""
    values = (images.astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def make_dataset(
    seed: int,
    count: int,
    tower: GridTower,
    codec: DepthCodec,
    *,
    temperature: float,
    cache: str | os.PathLike[str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> SmallDataset:
    """Render scenes, and pass them through tower and codec once; an interrupted call continues in its cache.

    Args:
        seed: The seed of the family of scenes.
        count: Number of scenes.
        tower: Frozen and calibrated.
        codec: The teacher.
        temperature: The temperature of `DepthCodec.encode_soft`.
        cache: A folder of parts (`.npz`, 320 scenes each): those that exist are read, the others written.
        advance: Called after each scene.
    """
    parts = []
    for first in range(0, count, _PART):
        last = min(count, first + _PART)
        path = None if cache is None else Path(cache) / f"{first}-{last}.npz"
        if path is not None and path.is_file():
            with np.load(path) as stored:
                parts.append({name: stored[name] for name in stored.files})
            for _ in range(first, last):
                advance()
            continue
        chunks = []
        for start in range(first, last, _CHUNK):
            views = []
            for index in range(start, min(last, start + _CHUNK)):
                views.append(render_yard(seed, index, tower.config.image_size))
                advance()
            chunks.append(_compute_arrays(views, tower, codec, temperature))
        parts.append(_concatenate(chunks))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, force=True) as file:
                np.savez(file, **parts[-1])
    arrays = _concatenate(parts)
    tensors = (torch.from_numpy(arrays[name]) for name in ("codes", "features", "teacher"))
    return SmallDataset(arrays["images"], arrays["nearness"], *tensors)


def _concatenate(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compute_arrays(
    views: list[YardImage], tower: GridTower, codec: DepthCodec, temperature: float
) -> dict[str, NDArray[Any]]:
    images, nearness = np.stack([view.image for view in views]), np.stack([view.nearness for view in views])
    with torch.no_grad():
        features = tower(normalize_images(images).to(tower.device)).last_hidden_state.cpu()
    soft = codec.encode_soft(nearness, temperature=temperature)
    return {
        "images": images,
        "nearness": nearness[:, ::2, ::2].astype(np.float16),
        "codes": codec.encode(nearness).reshape(-1, 100),
        "features": features.half().numpy(),
        "teacher": soft.reshape(len(views), 100, -1).astype(np.float16),
    }


@dataclass(frozen=True, eq=False)
class DepthAnswer:
    """An answer to the question for the depth map.

    Attributes:
        text: The generated text.
        codes: (100,) int64 of its block; None unless there is exactly one valid block and nothing malformed.
        depth: (160, 160) float32 nearness decoded from it, every second row and column, or None.
    """

    text: str
    codes: NDArray[np.int64] | None
    depth: NDArray[np.float32] | None


@torch.no_grad()
def answer_depth(
    model: Any,
    processor: Any,
    vocab: PerceptionVocabulary,
    codec: DepthCodec,
    dataset: SmallDataset,
    *,
    constrained: bool = True,
    bf16: bool | None = False,
    advance: Callable[[], object] = lambda: None,
) -> list[DepthAnswer]:
    """Generate the depth map of every image greedily, with or without the grammar.

    It is computed in bfloat16 or float32; None for what the model's device computes faster. `advance` is called after
    each answer.
    """
    tokenizer = processor.tokenizer
    prompt = torch.tensor(make_prompt_ids(processor), device=model.device)
    grammar = GrammarConfig(boxes=None, max_blocks=1, force_block="somewhere")
    constraint = PerceptionLogitsProcessor(vocab, grammar, tokenizer=tokenizer)
    answers = []
    for start in range(0, len(dataset), _BATCH):
        features = dataset.features[start : start + _BATCH].float().to(model.device)
        ids = prompt.expand(len(features), -1)
        processors = [constraint.for_prompt(ids, max_new_tokens=_MAX_NEW_TOKENS)] if constrained else []
        with _autocast(model, bf16):
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=features,
                logits_processor=processors,
                max_new_tokens=_MAX_NEW_TOKENS,
                do_sample=False,
            )
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        for text in texts:
            answers.append(_parse_answer(text, vocab, codec))
            advance()
    return answers


def _parse_answer(text: str, vocab: PerceptionVocabulary, codec: DepthCodec) -> DepthAnswer:
    parsed = parse_generation(text, vocab)
    if len(parsed.blocks) != 1 or parsed.problems:
        return DepthAnswer(text, None, None)
    return DepthAnswer(text, parsed.blocks[0].reshape(-1), codec.decode(parsed.blocks[0])[0, ::2, ::2])


def compute_rmse(maps: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> float:
    """Root mean square error of nearness over all pixels of all maps, (N, H, W) each."""
    return float(np.sqrt(np.mean((maps.astype(np.float64) - truth) ** 2)))


def finds_nearest(
    depth: NDArray[np.floating[Any]], points: NDArray[np.int64], truth: NDArray[np.floating[Any]]
) -> bool:
    """Whether a nearness map and the ground truth, (H, W) each, agree on the nearest of the points (n, 2), x and y."""
    x, y = points[:, 0], points[:, 1]
    return int(np.argmax(depth[y, x])) == int(np.argmax(truth[y, x]))


@dataclass(frozen=True)
class SmallTraining:
    """Settings of the small LLaVA's training, named as in `transformers.TrainingArguments`.

    Attributes:
        max_steps: Number of updates.
        batch_size: Scenes per update.
        learning_rate: Peak learning rate of language model, new rows and projector; warmed up over a twentieth of the
            updates, then decaying linearly to 0.
        eval_steps: Updates between two evaluations of the held-out loss.
        save_steps: Updates between two checkpoints, from which an interrupted training is resumed.
        bf16: Compute in bfloat16, with weights in float32; by default where the model's device computes it faster.
        seed: The seed of the order of scenes.

    Raises:
        ConfigError: A number of updates or scenes below 1, or a learning rate that is not positive.
    """

    max_steps: int = 200
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    eval_steps: int = 25
    save_steps: int = 20
    bf16: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "eval_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1; got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate is above 0; got {self.learning_rate}")


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve.

    Attributes:
        step: Updates so far.
        loss: Mean training loss since the last point.
        held_out: Cross entropy of the true codes on held-out scenes, nats per code; ln 128 = 4.85 is uniform guessing.
        accuracy: Share of codes that are the most likely, given the true ones before.
        processor_seconds: Processor time of this process so far.
    """

    step: int
    loss: float
    held_out: float
    accuracy: float
    processor_seconds: float


def train_depth(
    model: Any,
    processor: Any,
    vocab: PerceptionVocabulary,
    dataset: SmallDataset,
    held_out: SmallDataset,
    config: SmallTraining,
    advance: Callable[[str], None] = lambda _: None,
    *,
    checkpoint: Path | None = None,
) -> list[CurvePoint]:
    """Train atomic depth generation: Eq. 1 with the codec's soft codes, cross entropy on the other tokens.

    The arguments that `optimize` has too are as there.

    Raises:
        TrainingError: The loss is not finite.
    """
    alignment = VocabularyAlignment.identity(dataset.teacher.shape[-1])

    def compute_loss(scenes: Tensor) -> Tensor:
        logits, ids, labels = _compute_logits(model, processor, vocab, dataset, scenes, config.bf16)
        is_code = next_token_targets(ids, vocab, labels=labels).mask
        teacher = dataset.teacher[scenes].float().to(model.device)
        distillation = distillation_loss(logits, teacher, alignment, vocab, is_code, reduction="sum")
        words = labels.roll(-1, dims=1)
        is_word = (words != -100) & ~is_code
        is_word[:, -1] = False
        loss = F.cross_entropy(logits[is_word].float(), words[is_word], reduction="sum")
        return (distillation + loss) / (is_word.sum() + is_code.sum())

    def evaluate() -> tuple[float, float]:
        return _evaluate(model, processor, vocab, held_out, config.bf16)

    return optimize(model, len(dataset), compute_loss, evaluate, config, advance, checkpoint=checkpoint)


def optimize(
    model: Any,
    count: int,
    compute_loss: Callable[[Tensor], Tensor],
    evaluate: Callable[[], tuple[float, float]],
    config: SmallTraining,
    advance: Callable[[str], None] = lambda _: None,
    *,
    checkpoint: Path | None = None,
) -> list[CurvePoint]:
    """Train everything but the tower with AdamW on shuffled scenes; the model is left in evaluation mode.

    Args:
        model: The model.
        count: Number of scenes.
        compute_loss: Takes the numbers of a batch's scenes, (B,) int64 in 0 .. count - 1; returns a scalar.
        evaluate: Returns held-out loss and accuracy.
        config: The settings.
        advance: Called after each update, also for those of a run that is resumed.
        checkpoint: A file (safetensors) that is written every `save_steps` and at the end, and from which the training
            is resumed with the same result; it has to be of the same settings.

    Raises:
        TrainingError: The loss is not finite.
        CheckpointError: The checkpoint is damaged, or of another model.
    """
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.empty(0, dtype=torch.int64)
    state = _TrainingState(0, [], [], 0.0)
    if checkpoint is not None and checkpoint.is_file():
        state, order = _load_checkpoint(checkpoint, parameters, optimizer, generator)
    curve, losses = state.curve, state.losses
    for _ in range(state.step):
        advance("resumed")
    start = time.process_time() - state.processor_seconds
    warmup_steps = max(1, config.max_steps // 20)
    model.train()
    for step in range(state.step, config.max_steps):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        scenes, order = order[: config.batch_size], order[config.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / warmup_steps) * (1 - step / config.max_steps)
        loss = compute_loss(scenes)
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"the loss is {float(loss)} at step {step}, scenes {scenes.tolist()}; lower the learning rate"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        advance(f"loss {losses[-1]:.2f}")
        if (step + 1) % config.eval_steps == 0 or step + 1 == config.max_steps:
            model.eval()
            held_out, accuracy = evaluate()
            model.train()
            mean = sum(losses) / len(losses)
            curve.append(CurvePoint(step + 1, mean, held_out, accuracy, time.process_time() - start))
            losses.clear()
        if checkpoint is not None and ((step + 1) % config.save_steps == 0 or step + 1 == config.max_steps):
            state = _TrainingState(step + 1, curve, losses, time.process_time() - start)
            _save_checkpoint(checkpoint, state, order, parameters, optimizer, generator)
    model.eval()
    model.requires_grad_(False)
    return curve


@dataclass(frozen=True)
class _TrainingState:
    """What a checkpoint holds beside tensors: updates so far, the curve, the losses since its last point, the time."""

    step: int
    curve: list[CurvePoint]
    losses: list[float]
    processor_seconds: float


def _save_checkpoint(
    path: Path,
    state: _TrainingState,
    order: Tensor,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Write weights, optimizer, order of scenes and random state; the file before is replaced when it is complete."""
    tensors = {"order": order.clone(), "generator": generator.get_state()}
    for number, parameter in enumerate(parameters):
        tensors[f"{number}.weight"] = parameter.detach()
        tensors |= {f"{number}.{name}": value for name, value in optimizer.state[parameter].items()}
    with atomic_write(path, force=True) as file:
        file.write(save(tensors, metadata={"state": json.dumps(asdict(state))}))


@torch.no_grad()
def _load_checkpoint(
    path: Path, parameters: list[Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> tuple[_TrainingState, Tensor]:
    """Restore weights, optimizer and random state in place; returns the rest of the state, and the order of scenes.

    Raises:
        CheckpointError: The file is damaged, or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            state = config_from_dict(_TrainingState, json.loads(file.metadata()["state"]), name=str(path))
            for number, parameter in enumerate(parameters):
                parameter.copy_(file.get_tensor(f"{number}.weight"))
                names = [name for name in file.keys() if name.startswith(f"{number}.")]  # noqa: SIM118 - not a dict
                optimizer.state[parameter] = {
                    name.partition(".")[2]: file.get_tensor(name) for name in names if not name.endswith(".weight")
                }
                for name, value in optimizer.state[parameter].items():
                    if name != "step":  # which AdamW keeps on the CPU
                        optimizer.state[parameter][name] = value.to(parameter.device)
            generator.set_state(file.get_tensor("generator"))
            return state, file.get_tensor("order")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: no training can be resumed from it ({quote_error(error)}); remove it to start over"
        ) from error


def _compute_logits(
    model: Any, processor: Any, vocab: PerceptionVocabulary, dataset: SmallDataset, scenes: Tensor, bf16: bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, ids and labels from the last token of the question on: (B, T, V), (B, T) and (B, T).

    The key-value cache saves a third of the arithmetic: the text before the image is the same for all scenes and
    computed once, and what the last layer would make of the images' tokens is needed by nothing.
    """
    ids, labels = (part.to(model.device) for part in make_depth_batch(processor, vocab, dataset.codes[scenes]))
    is_image = ids[0] == model.config.image_token_id
    first = int(is_image.int().argmax())
    last = int((labels[0] != -100).int().argmax()) - 1
    features = dataset.features[scenes].float().to(model.device)
    with _autocast(model, bf16):
        cache = model.model(input_ids=ids[:1, :first], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(ids))
        with _skip_last_mlp(model):
            model.model(input_ids=ids[:, first:last], pixel_values=features, past_key_values=cache, use_cache=True)
        logits = model(input_ids=ids[:, last:], past_key_values=cache, use_cache=True).logits
    return logits, ids[:, last:], labels[:, last:]


def _autocast(model: Any, bf16: bool | None) -> torch.autocast:
    """Compute in bfloat16, or not; None for where the model's device computes it faster."""
    kind = model.device.type
    enabled = choose_dtype(kind) == torch.bfloat16 if bf16 is None else bf16
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


@contextmanager
def _skip_last_mlp(model: Any) -> Iterator[None]:
    """Leave out the last layer's MLP but for one position: for tokens of which only keys and values are used."""
    mlp = model.model.language_model.layers[-1].mlp
    handle = mlp.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :1],))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _evaluate(
    model: Any, processor: Any, vocab: PerceptionVocabulary, dataset: SmallDataset, bf16: bool | None
) -> tuple[float, float]:
    """Cross entropy of the true codes of a batch, and the share of them that are the most likely, teacher-forced."""
    scenes = torch.arange(min(_BATCH, len(dataset)))
    logits, ids, _ = _compute_logits(model, processor, vocab, dataset, scenes, bf16)
    mask = next_token_targets(ids, vocab).mask
    scores, truth = logits.float()[mask], ids.roll(-1, dims=1)[mask]
    return float(F.cross_entropy(scores, truth)), float((scores.argmax(-1) == truth).float().mean())
