"""Conclusions that follow from the evidence, row by row, whatever the model would have written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.errors import InferenceError
from perceptok.llava.inference.batch_consistency import BatchConsistency, encode_after

FRAME = ImageFrame.squash((120, 80))
BOX = "(<PIXEL_0>,<PIXEL_0>,<PIXEL_9>,<PIXEL_9>)"


def rows_of(
    kinds: Sequence[Any], tokenizer: Any, codec: pt.DepthCodec, *markers: dict[str, tuple[float, float]]
) -> BatchConsistency:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    places = markers or ({},)
    return BatchConsistency(
        kinds, tokenizer, vocab, 0, places, [FRAME] * len(places), lambda codes: codec.decode(codes)[0]
    )


def continued(rows: BatchConsistency, tokenizer: Any, text: str, steps: int) -> str:
    """What a model without any preference writes after a text under a constraint; the likeliest is id 0."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    begun = len(ids)
    for _ in range(steps):
        scores = torch.zeros(1, len(tokenizer))
        scores[0, 0] = 1
        ids.append(int(rows(torch.tensor([ids]), scores).argmax()))
    return str(tokenizer.decode(ids[begun:]))


@pytest.fixture(params=["bytes", "llama"])
def either(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A byte-level tokenizer, and SentencePiece's."""
    if request.param == "bytes":
        return tokenizer
    shared = request.getfixturevalue("shared")
    found = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer")
    pt.extend_vocabulary(found)
    return found


def test_the_count_is_that_of_the_boxes(either: Any, codec: pt.DepthCodec) -> None:
    text = f"Here they are:\n{BOX}\n{BOX}\nSince there are 7 distinct bounding boxes and masks, we conclude there are"
    rows = rows_of(["count"], either, codec)
    steps = len(encode_after(either, "masks, we conclude there are", " 2"))
    assert continued(rows, either, text, steps).strip() == "2"
    assert rows.overruled(0) == 1
    none = "There are no cars in the image. We conclude there are"
    steps = len(encode_after(either, none, " 0"))
    assert continued(rows, either, none, steps).strip() == "0"


def test_no_digit_is_added_to_a_count(either: Any, codec: pt.DepthCodec) -> None:
    """After the number no token may change it: no 20, 2.5 or 2,000; anything else is allowed."""
    text = f"{BOX}\n{BOX}\nSince there are 2 distinct bounding boxes and masks, we conclude there are 2"
    rows = rows_of(["count"], either, codec)
    ids = either.encode(text, add_special_tokens=False)
    for behind in ("", ".", ","):
        sequence = encode_after(either, "there are", f" 2{behind}")
        begun = ids[: len(ids) - len(encode_after(either, "there are", " 2"))] + sequence
        constrained = rows(torch.tensor([begun]), torch.zeros(1, len(either)))[0]
        known = either.decode(sequence)
        for index in range(len(either)):
            grown = either.decode([*sequence, index]).removeprefix(known)
            number = re.fullmatch(r"[.,']?[0-9].*", grown, re.DOTALL) if behind == "" else re.match("[0-9]", grown)
            assert (constrained[index] == -torch.inf) == (number is not None), (behind, index, grown)
    # A word later digits are free again: "2 cars. 3 of them".
    later = rows(torch.tensor([[*ids, *encode_after(either, "2", " cars.")]]), torch.zeros(1, len(either)))
    assert bool(later.isfinite().all())


def test_a_list_counts_its_own(either: Any, codec: pt.DepthCodec) -> None:
    rows = rows_of(["list"], either, codec)
    text = f"Here are the bounding boxes for the cars:\nBounding box 1: {BOX}\nBounding box"
    steps = len(encode_after(either, "cars:\nBounding box", " 2:"))
    assert continued(rows, either, text, steps).strip() == "2:"


def test_the_nearest_marker_of_each_row(either: Any, codec: pt.DepthCodec, block: str) -> None:
    """The map's right is near: of two rows with letters swapped, each says its own."""
    left, right = (10.0, 40.0), (110.0, 40.0)
    text = f"The depth map for the image is {block}. Since B is higher on the depth map, the answer is that point"
    for places, expected in (({"A": left, "B": right}, "B"), ({"A": right, "B": left}, "A")):
        rows = rows_of(["marker"], either, codec, places)
        assert continued(rows, either, text, len(encode_after(either, text, f" {expected}"))).strip() == expected
    rows = rows_of(["marker"], either, codec, {}, {"A": left, "B": right}, {})
    scores = torch.zeros(3, len(either))
    constrained = rows(torch.tensor([either.encode(text, add_special_tokens=False)] * 3), scores)
    assert (constrained > -torch.inf).sum(1).tolist() == [len(either), 1, len(either)]
    assert not scores.any()


def test_markers_at_the_edge_and_beyond(tokenizer: PreTrainedTokenizerFast, codec: pt.DepthCodec) -> None:
    rows_of(["marker"], tokenizer, codec, {"A": (0.0, 0.0), "B": (120.0, 80.0)})
    with pytest.raises(InferenceError, match="marker B at"):
        rows_of(["marker"], tokenizer, codec, {"A": (0.0, 0.0), "B": (121.0, 3.0)})


def test_nothing_asked_changes_nothing(tokenizer: PreTrainedTokenizerFast, codec: pt.DepthCodec) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).random((1, len(tokenizer)), dtype=np.float32))
    assert rows_of([], tokenizer, codec)(torch.tensor([[5, 6]]), scores) is scores
