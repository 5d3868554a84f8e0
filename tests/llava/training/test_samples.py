"""Batches: labels on what the assistant writes, token by token, and never a cut block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import perceptok as pt
from perceptok.data import PerceptionRecord, Turn, read_records, write_records
from perceptok.errors import RecordError, TrainingError
from perceptok.llava.training.samples import Collator, RecordSamples, read_samples
from tests.llava.records import write_some_records

Ready = tuple[Any, pt.PerceptionVocabulary, Path]


@pytest.fixture(scope="module")
def ready(tiny_llava: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Processor, vocabulary and a file of records."""
    _, processor, vocab = pt.load_llava(tiny_llava, codec=codec)
    return processor, vocab, write_some_records(tmp_path_factory.mktemp("data"), codec)


def samples_of(ready: Ready, path: Path | None = None, **more: Any) -> RecordSamples:
    processor, vocab, records = ready
    limit = {"max_length": 2048, **more}
    return read_samples((str(path or records),), processor, vocab, pt.llava.FrameRule(), **limit)


def test_every_token_that_is_taught(ready: Ready, codec: pt.DepthCodec) -> None:
    """Of each record: the taught ids, decoded, are the answer and what closes it; nothing else has a label."""
    processor, vocab, path = ready
    samples = samples_of(ready, codec_fingerprint=codec.fingerprint)
    batch = Collator(processor, vocab, pt.llava.FrameRule())(samples.samples)
    answers = {record.id: record.turns[-1].text for record in read_records(path)}
    eos = processor.tokenizer.eos_token
    for row, name in enumerate(batch["sample_ids"]):
        labels, ids = batch["labels"][row], batch["input_ids"][row]
        taught = labels != -100
        assert torch.equal(labels[taught], ids[taught])
        written = processor.tokenizer.decode(ids[taught])
        assert written.strip() == answers[name] + eos
        assert not taught[ids == processor.image_token_id].any()
        assert not taught[batch["attention_mask"][row] == 0].any()
        # One stretch, up to the last real token: the prompt before it is what a model is given.
        places = taught.nonzero()[:, 0]
        assert torch.equal(places, torch.arange(int(places[0]), int(places[0]) + len(places)))
        assert int(places[-1]) == int(batch["attention_mask"][row].sum()) - 1
        assert processor.tokenizer.decode(ids[: int(places[0])]).endswith("ASSISTANT:")
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert lengths == [sample.length for sample in samples.samples]


def test_two_images_and_several_turns(ready: Ready, tmp_path: Path) -> None:
    processor, vocab, _ = ready
    for name in "ab":
        Image.new("L", (30, 20), 90).save(tmp_path / f"{name}.png")
    turns = (Turn("user", "Same?"), Turn("assistant", "Yes."), Turn("user", "Sure?"), Turn("assistant", "No."))
    write_records(tmp_path / "r.jsonl", [PerceptionRecord("two", ("a.png", "b.png"), turns, "depth", "direct")])
    samples = samples_of(ready, tmp_path / "r.jsonl")
    batch = Collator(processor, vocab, pt.llava.FrameRule())(samples.samples)
    assert batch["pixel_values"].shape[0] == 2
    labels = batch["labels"][0]
    taught = processor.tokenizer.decode(labels[labels != -100])
    assert re.sub(r"\s", "", taught) == "Yes.</s>No.</s>"
    assert samples.samples[0].length == int(batch["attention_mask"].sum())


def test_no_block_is_ever_cut(ready: Ready) -> None:
    whole = samples_of(ready)
    long = sum(sample.length > 150 for sample in whole.samples)
    assert 0 < long < len(whole)
    fewer = samples_of(ready, max_length=150)
    assert fewer.dropped == long
    assert len(fewer) == len(whole) - long
    with pytest.raises(
        TrainingError,
        match=rf"^{long} of 12 records are longer than max_length=150, first .* no block is ever truncated",
    ):
        samples_of(ready, max_length=150, too_long="refuse")
    with pytest.raises(TrainingError, match=r"no record to train on in .*: all 12 are longer than max_length=5"):
        samples_of(ready, max_length=5)


def test_refused(ready: Ready, codec: pt.DepthCodec, tmp_path: Path) -> None:
    processor, vocab, _ = ready
    with pytest.raises(RecordError, match=r"its depth codes are of the codec .*, the model's of deadbeef"):
        samples_of(ready, codec_fingerprint="deadbeef")
    turns = (Turn("user", "What?"), Turn("assistant", "That."))
    for name, images, message in [
        ("none", (), "a training sample has at least one image; got none"),
        ("gone", ("gone.png",), "file not found: .*gone.png"),
    ]:
        file = tmp_path / f"{name}.jsonl"
        write_records(file, [PerceptionRecord(name, images, turns, "depth", "direct")])
        with pytest.raises(RecordError, match=f"record '{name}': images: {message}"):
            samples_of(ready, file)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    write_records(tmp_path / "torn.jsonl", [PerceptionRecord("torn", ("torn.png",), turns, "depth", "direct")])
    torn = samples_of(ready, tmp_path / "torn.jsonl")
    with pytest.raises(RecordError, match=r"record 'torn': .*torn.png: not a readable image"):
        Collator(processor, vocab, pt.llava.FrameRule())(torn.samples)


def test_a_template_without_a_place_for_images(ready: Ready, tiny_llava: Path, codec: pt.DepthCodec) -> None:
    _, processor, vocab = pt.load_llava(tiny_llava, codec=codec)
    known: Any = processor
    known.chat_template = known.chat_template.replace("{{ '<image>\n' }}", "")
    with pytest.raises(RecordError, match="shows 0 images, the record has 1; every image needs its place"):
        samples_of((known, vocab, ready[2]))
