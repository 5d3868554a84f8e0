"""A served text gives the evidence that the pipeline gives; the page on serving runs as far as it needs no engine."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from sybil.document import Document

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.llava import PerceptionPipeline, merge_adapter, read_served_answer
from tests.llava.answering import make_image
from tests.test_readmes import PARSERS

PAGE = Path(pt.__file__).parent / "llava" / "SERVING.md"


@pytest.fixture(scope="module")
def merged(tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        return merge_adapter(tiny_adapter, tmp_path_factory.mktemp("served") / "merged")


def test_a_merged_model_says_what_its_text_is_read_as(merged: Path) -> None:
    pipe = PerceptionPipeline.from_pretrained(merged)
    image = make_image(60, 40)
    answer = pipe(image, "What is the depth map?", max_new_tokens=120, force_block="first")
    read = read_served_answer(
        answer.text,
        image,
        answer.question,
        vocab=pipe.vocab,
        tokenizer=pipe.processor.tokenizer,
        codec=pipe.codec,
        frame=pipe.frame,
        ended=answer.ended,
    )
    assert read.codes is not None
    np.testing.assert_array_equal(read.codes, answer.codes)
    np.testing.assert_array_equal(read.boxes, answer.boxes)
    assert read.problems == answer.problems


def test_another_codec(merged: Path, codec: pt.DepthCodec) -> None:
    pipe = PerceptionPipeline.from_pretrained(merged)
    other = pt.DepthCodec(codec.model, codec.preprocessing.__class__(resize="area"))
    with pytest.raises(VocabularyError, match="codec that was saved with the model"):
        read_served_answer(
            "", make_image(3, 3), "Why?", vocab=pipe.vocab, tokenizer=pipe.processor.tokenizer, codec=other
        )


def test_the_page_runs(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "merged").symlink_to(merged)
    make_image(60, 40).save(tmp_path / "kitchen.jpg")
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(PAGE), *PARSERS)
    for example in document.examples():
        with suppress(SkipTest):
            example.evaluate()
    assert (document.namespace["answer"].codes == 5).all()
    assert document.namespace["answer"].depth.values.shape == (40, 60)
    assert len(document.namespace["fields"]["structured_outputs"]["structural_tag"]) > 1000
