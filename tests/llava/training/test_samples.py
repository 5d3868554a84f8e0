"""Batches: labels on what the assistant writes, token by token, and never a cut block."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import perceptok as pt
from perceptok.data import Evidence, PerceptionRecord, Turn, read_records, write_records
from perceptok.errors import RecordError, TrainingError
from perceptok.llava.training.samples import Collator, RecordSamples, read_samples
from perceptok.tokens import DEPTH
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


def test_reading_without_an_image(ready: Ready, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """The given block is not supervised, and a block that is not the evidence's is refused."""
    processor, vocab, _ = ready
    codes = tuple(range(100))
    block = codec.to_text(np.arange(100).reshape(10, 10))
    turns = (Turn("user", f"The depth map for the image is {block}. Which point?"), Turn("assistant", "(A)"))
    record = PerceptionRecord("given", (), turns, "depth", "reading", evidence=Evidence(codes, codec.fingerprint))
    write_records(tmp_path / "r.jsonl", [record])
    samples = samples_of(ready, tmp_path / "r.jsonl")
    batch = Collator(processor, vocab, pt.llava.FrameRule())(samples.samples)
    labels = batch["labels"][0]
    assert processor.tokenizer.decode(labels[labels != -100]).strip() == "(A)</s>"
    assert torch.isin(batch["input_ids"][0], vocab.ids(DEPTH)).sum() == 100
    other = replace(record, evidence=Evidence(codes[::-1], codec.fingerprint))
    write_records(tmp_path / "other.jsonl", [other])
    with pytest.raises(RecordError, match=r"record 'given': evidence\.codes: the question does not give this block"):
        samples_of(ready, tmp_path / "other.jsonl")


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
        ("gone", ("gone.png",), ".*gone.png: image file not found"),
    ]:
        file = tmp_path / f"{name}.jsonl"
        write_records(file, [PerceptionRecord(name, images, turns, "depth", "direct")])
        with pytest.raises(RecordError, match=f"record '{name}': images: {message}"):
            samples_of(ready, file)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    write_records(tmp_path / "torn.jsonl", [PerceptionRecord("torn", ("torn.png",), turns, "depth", "direct")])
    message = r"1 of 1 images cannot be read: record 'torn': images: .*torn.png: not a readable image.*Restore them"
    with pytest.raises(RecordError, match=message):
        samples_of(ready, tmp_path / "torn.jsonl")
    Image.new("L", (30, 20), 90).save(tmp_path / "torn.png")
    torn = samples_of(ready, tmp_path / "torn.jsonl")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")  # after the samples were read
    with pytest.raises(RecordError, match=r"record 'torn': .*torn.png: not a readable image"):
        Collator(processor, vocab, pt.llava.FrameRule())(torn.samples)


def test_every_image_is_checked_in_shares_with_a_bar(ready: Ready, codec: pt.DepthCodec, tmp_path: Path) -> None:
    path = write_some_records(tmp_path, codec, 9)
    for number in (2, 5, 6):
        (tmp_path / f"{number}.png").write_bytes(b"GIF89a")
    shown: list[tuple[str, int]] = []
    advanced: list[None] = []

    @contextmanager
    def progress(name: str, count: int) -> Iterator[Callable[..., None]]:
        shown.append((name, count))
        yield lambda: advanced.append(None)

    with pytest.raises(RecordError, match=r"^3 of 9 images .* record 'r2': .*; record 'r5': .*; record 'r6': "):
        samples_of(ready, path, progress=progress)
    assert (shown, len(advanced)) == ([("checking images", 9)], 9)
    found = []
    for rank in range(2):
        with pytest.raises(RecordError, match="images cannot be read") as raised:
            samples_of(ready, path, share=(rank, 2))
        found += re.findall(r"record '(r\d)'", str(raised.value))
    assert sorted(found) == ["r2", "r5", "r6"]


def test_malformed_supervision_is_refused_by_record_and_place(
    ready: Ready, codec: pt.DepthCodec, tmp_path: Path
) -> None:
    path = write_some_records(tmp_path, codec, 3)
    record = next(record for record in read_records(path) if record.id == "r0")
    answer = record.turns[1].text
    for text, message in [
        (
            re.sub(r"<DEPTH_\d+><DEPTH_END>", "<DEPTH_END>", answer),
            "the block at character 31: .* after 99 of 100 codes",
        ),
        (answer.replace("<DEPTH_END>", ""), "the block at character 31: .*expected <DEPTH_END>"),
        (answer + " <DEPTH_3>", "1 depth token outside a block"),
        (answer + " (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>)", "malformed box at character"),
    ]:
        write_records(path, [replace(record, turns=(record.turns[0], Turn("assistant", text)))], force=True)
        with pytest.raises(RecordError, match=rf"records.jsonl, record 'r0': turns.1.text: .*{message}"):
            samples_of(ready, path)


def test_instruction_data(ready: Ready, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """LLaVA JSON of other programs: questions about an image, several turns, and text alone, in one batch."""
    processor, vocab, records = ready
    Image.new("RGB", (30, 20), (90, 0, 0)).save(tmp_path / "a.png")
    ask, say = {"from": "human"}, {"from": "gpt"}
    entries = [
        {"id": "vqa", "image": "a.png", "conversations": [{**ask, "value": "<image>\nColor?"}, {**say, "value": "5"}]},
        {"id": 7, "conversations": [{**ask, "value": "Hi"}, {**say, "value": "Yes?"}] * 2},
    ]
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(entries))
    samples = samples_of(ready, records, instructions=[str(path)], regimes=["direct"])
    assert samples.sizes == {"direct": 4, "instruction": 2}
    chosen = [sample for sample in samples.samples if sample.group == "other/instruction"]
    batch = Collator(processor, vocab, pt.llava.FrameRule())([*chosen, samples.samples[0]])
    assert batch["pixel_values"].shape[0] == 2  # of the question about an image, and of the record
    taught = [processor.tokenizer.decode(row[row != -100]).split() for row in batch["labels"][:2]]
    assert taught == [["5</s>"], ["Yes?</s>", "Yes?</s>"]]
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert lengths == [sample.length for sample in [*chosen, samples.samples[0]]]
    alone = Collator(processor, vocab, pt.llava.FrameRule())([chosen[1]])
    assert "pixel_values" not in alone
    with pytest.raises(RecordError, match=r"record 'r0': of the task 'depth'; instruction_records are general data"):
        samples_of(ready, instructions=[str(records)])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(TrainingError, match="no record to train on"):
        samples_of(ready, tmp_path / "empty.jsonl", instructions=[str(path)])


def test_a_template_without_a_place_for_images(ready: Ready, tiny_llava: Path, codec: pt.DepthCodec) -> None:
    _, processor, vocab = pt.load_llava(tiny_llava, codec=codec)
    known: Any = processor
    known.chat_template = known.chat_template.replace("{{ '<image>\n' }}", "")
    with pytest.raises(RecordError, match="shows 0 images, the record has 1; every image needs its place"):
        samples_of((known, vocab, ready[2]))
