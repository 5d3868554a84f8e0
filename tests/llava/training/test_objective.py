"""The loss of a batch against a slow and obvious one, whole and in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.errors import ConfigError
from perceptok.llava.training.config import ObjectiveSettings
from perceptok.llava.training.objective import Objective, count_logits_to_keep
from perceptok.llava.training.samples import Collator, RecordSamples, SoftTeacher, make_codebook_teacher, read_samples
from tests.llava.records import write_some_records


@pytest.fixture(scope="module")
def batch(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A batch, its vocabulary, and logits as a model might give them."""
    _, processor, vocab = pt.load_llava(tiny_llava, codec=codec)
    path = write_some_records(tmp_path_factory.mktemp("data"), codec, 6, soft=128)
    samples = read_samples((str(path),), processor, vocab, pt.llava.FrameRule(), max_length=2048)
    found = Collator(processor, vocab, pt.llava.FrameRule())(samples.samples)
    torch.manual_seed(2)
    found |= {"processor": processor, "samples": samples, "path": path}
    return {**found, "vocab": vocab, "logits": torch.randn(*found["labels"].shape, vocab.size, requires_grad=True)}


def maps_of(batch: dict[str, Any], name: str, codec: pt.DepthCodec, temperature: float) -> Tensor | None:
    """What the codec says of the map that a "cot" record of `write_some_records` was made of: its image, squared."""
    number = int(name.removeprefix("r"))
    if number % 3 != 1:
        return None
    generator = np.random.default_rng(3)
    powers = [generator.uniform(0.5, 2) for _ in range(number + 1)]
    ramp = np.linspace(0, 1, 40, dtype=np.float32) ** powers[-1]
    nearness = np.ascontiguousarray(np.broadcast_to(ramp[:, None], (40, 40)))
    spread = float(torch.cdist(codec.codebook, codec.codebook).square().sum() / (128 * 127))
    return torch.from_numpy(codec.encode_soft(nearness, temperature=temperature * spread)).view(100, 128)


def slow(batch: dict[str, Any], codec: pt.DepthCodec, settings: ObjectiveSettings) -> Tensor:
    """Position by position, as the equations are printed."""
    vocab: pt.PerceptionVocabulary = batch["vocab"]
    cross, distilled = [], []
    table = make_codebook_teacher(codec.codebook, settings.teacher_temperature)
    ids = vocab.ids(pt.tokens.DEPTH)
    samples: RecordSamples = batch["samples"]
    for row in range(len(batch["labels"])):
        cell = 0
        maps = maps_of(batch, samples.samples[row].id, codec, settings.teacher_temperature)
        for place in range(1, batch["labels"].shape[1]):
            label = int(batch["labels"][row, place])
            if label == -100:
                continue
            logits = batch["logits"][row, place - 1]
            cross.append(-F.log_softmax(logits, dim=-1)[label])
            if label in ids.tolist():
                columns = logits[ids] if settings.normalization == "auxiliary" else logits
                log_p = F.log_softmax(columns, dim=-1)
                log_p = log_p if settings.normalization == "auxiliary" else log_p[ids]
                code = ids.tolist().index(label)
                q = F.one_hot(torch.tensor(code), 128).float() if settings.teacher == "hard" else table[code]
                if settings.teacher == "soft" and maps is not None:
                    q = maps[cell]
                cell += 1
                distilled.append(-(q * log_p).sum())
    total = settings.cross_entropy * torch.stack(cross).mean()
    return total + settings.distillation * torch.stack(distilled).mean()


@pytest.mark.parametrize(
    "settings",
    [
        ObjectiveSettings(),
        ObjectiveSettings(distillation=0.0),
        ObjectiveSettings(cross_entropy=0.5, distillation=2.0, teacher="soft"),
        ObjectiveSettings(teacher="soft", normalization="auxiliary", teacher_temperature=0.3),
        ObjectiveSettings(teacher="codebook"),
        ObjectiveSettings(normalization="auxiliary"),
    ],
)
def test_as_printed(batch: dict[str, Any], codec: pt.DepthCodec, settings: ObjectiveSettings) -> None:
    vocab = batch["vocab"]
    objective = Objective(settings, vocab, codec)
    labels = batch["labels"]
    items = (labels[:, 1:] != -100).sum()
    codes = (vocab.codes(labels[:, 1:], pt.tokens.DEPTH) >= 0).sum()
    expected = slow(batch, codec, settings)
    keep = count_logits_to_keep(labels)
    assert keep < labels.shape[1]
    taught = SoftTeacher.from_settings(settings, codec)
    with_teacher = Collator(batch["processor"], vocab, pt.llava.FrameRule(), taught)
    samples = batch["samples"].samples
    teacher = with_teacher(samples).get("teacher")
    assert (teacher is None) == (settings.teacher == "hard" or not settings.distillation)
    found = objective(batch["logits"][:, -keep:], batch["input_ids"], labels, items, codes, teacher)
    assert torch.allclose(found.total, expected, rtol=1e-4)
    gradients = [torch.autograd.grad(loss, batch["logits"], retain_graph=True)[0] for loss in (found.total, expected)]
    assert torch.allclose(*gradients, atol=1e-7)
    assert torch.equal(found.counts, (labels[:, 1:] != -100).sum(dim=1))
    # In two parts it is the same: the loss does not depend on the parts of a step.
    parts = [
        objective(
            batch["logits"][rows],
            batch["input_ids"][rows],
            labels[rows],
            items,
            codes,
            with_teacher(samples[rows]).get("teacher"),
        ).total
        for rows in (slice(0, 1), slice(1, None))
    ]
    assert torch.allclose(sum(parts), found.total, rtol=1e-5)  # type: ignore[arg-type]


def test_reconstruction(batch: dict[str, Any], codec: pt.DepthCodec) -> None:
    """Eq. 2 is nothing where the right codes are certain, and something elsewhere."""
    vocab, labels = batch["vocab"], batch["labels"]
    objective = Objective(ObjectiveSettings(distillation=0.0, reconstruction=3.0), vocab, codec)
    plain = Objective(ObjectiveSettings(distillation=0.0), vocab, codec)
    codes = (vocab.codes(labels[:, 1:], pt.tokens.DEPTH) >= 0).sum()
    sure = F.one_hot(labels.roll(-1, dims=1).clamp(min=0), vocab.size).float() * 50
    for logits, more in ((sure, False), (batch["logits"].detach(), True)):
        given = (logits, batch["input_ids"], labels, 1, codes)
        difference = float(objective(*given).total - plain(*given).total)
        assert (difference > 1e-3) == more, difference


def test_make_codebook_teacher(codec: pt.DepthCodec) -> None:
    hard = make_codebook_teacher(codec.codebook, 1e-6)
    assert torch.allclose(hard, torch.eye(128), atol=1e-6)
    soft = make_codebook_teacher(codec.codebook, 0.05)
    assert torch.allclose(soft.sum(dim=1), torch.ones(128))
    assert torch.equal(soft.argmax(dim=1), torch.arange(128))
    assert float(soft.diagonal().mean()) < 0.999


def test_refused(batch: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        ObjectiveSettings(cross_entropy=0.0, distillation=0.0)
    with pytest.raises(ConfigError, match="needs the depth codec"):
        Objective(ObjectiveSettings(reconstruction=1.0), batch["vocab"], None)
