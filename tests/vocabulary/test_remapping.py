"""Ids and rows mapped from one vocabulary to another."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.vocabulary import consecutive_vocabulary, extend_vocabulary, remap_ids, remap_rows


def test_auroras_ids() -> None:
    aurora = consecutive_vocabulary()
    assert aurora.start_id(pt.tokens.DEPTH) == 32000
    assert aurora.end_id(pt.tokens.DEPTH) == 32001
    assert aurora.token_id(pt.tokens.DEPTH, 0) == 32002
    assert aurora.token_id(pt.tokens.PIXEL, 335) == 32465


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_of_data_are_mapped(bare: PreTrainedTokenizerFast, dtype: torch.dtype) -> None:
    here, aurora = extend_vocabulary(bare), consecutive_vocabulary()
    ids = torch.tensor([[-100, 5, 32000, 32002], [32001, 32465, 40000, 0]], dtype=dtype)
    mapped = remap_ids(ids, aurora, here)
    assert mapped.dtype == dtype
    assert mapped.tolist() == [[-100, 5, 300, 302], [301, 765, 40000, 0]]
    assert torch.equal(remap_ids(mapped, here, aurora), ids)


def test_overlapping_ids() -> None:
    source, target = consecutive_vocabulary(100), consecutive_vocabulary(101)
    assert torch.equal(remap_ids(source.all_ids, source, target), target.all_ids)
    with pytest.raises(VocabularyError, match="id 566 is <PIXEL_335> in the target, but not a perception token"):
        remap_ids(torch.tensor([100, 566]), source, target)


def test_rows_are_copied(bare: PreTrainedTokenizerFast) -> None:
    here, aurora = extend_vocabulary(bare), consecutive_vocabulary(20)
    source, into = torch.randn(486, 8), torch.zeros(770, 8, dtype=torch.bfloat16, requires_grad=True)
    remap_rows(source, into, aurora, here)
    assert torch.equal(into[here.ids(pt.tokens.PIXEL)], source[aurora.ids(pt.tokens.PIXEL)].bfloat16())
    assert torch.equal(into[300:766], source[20:].bfloat16())
    assert not into[:300].any()
    assert not into[766:].any()
    bias = torch.zeros(770)
    remap_rows(torch.arange(486.0), bias, aurora, here)
    assert bias[300] == 20


def test_bad_input_is_refused(bare: PreTrainedTokenizerFast) -> None:
    here, aurora = extend_vocabulary(bare, token_sets=(pt.tokens.PIXEL,)), consecutive_vocabulary()
    with pytest.raises(VocabularyError, match="target vocabulary has no DEPTH tokens"):
        remap_ids(torch.tensor([1]), aurora, here)
    with pytest.raises(VocabularyError, match=r"integers; got torch\.float32"):
        remap_ids(torch.tensor([1.0]), here, aurora)
    with pytest.raises(VocabularyError, match="source matrix has 300 rows, its vocabulary ids up to 635"):
        remap_rows(torch.zeros(300, 8), torch.zeros(40000, 8), here, aurora)
    with pytest.raises(VocabularyError, match="target matrix has 32000 rows, its vocabulary ids up to 32465"):
        remap_rows(torch.zeros(700, 8), torch.zeros(32000, 8), here, aurora)
    with pytest.raises(VocabularyError, match=r"rows of shape \(8,\) do not fit into \(9,\)"):
        remap_rows(torch.zeros(700, 8), torch.zeros(32466, 9), here, aurora)
    with pytest.raises(VocabularyError, match="must not be negative; got -1"):
        consecutive_vocabulary(-1)
