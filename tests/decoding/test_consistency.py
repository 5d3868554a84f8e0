"""Answers that are constrained to their evidence, and how often that changed them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import CountConsistency, ListConsistency, MarkerConsistency
from perceptok.errors import ConstraintError
from tests.decoding.engines.test_huggingface import block_ids, box_ids

CUE = (5, 6)
NUMBERS = {0: [4], 1: [14], 2: [15, 13]}


def scores_for(vocab: pt.PerceptionVocabulary, *favourites: int) -> torch.Tensor:
    scores = torch.zeros(len(favourites), vocab.size)
    scores[range(len(favourites)), favourites] = 5.0
    return scores


class TestCount:
    def test_the_number_of_boxes_written(self, vocab: pt.PerceptionVocabulary) -> None:
        count = CountConsistency(vocab, CUE, NUMBERS.__getitem__)
        assert math.isnan(count.interventions.rate)
        one = box_ids(vocab, 1, 2, 3, 4)
        rows = [[4] * 22 + [*CUE], [*one, *one, 4, 4, 4, 4, *CUE], [*one, *[4] * 13, *CUE]]
        scores = scores_for(vocab, 4, 14, 15)
        held = count(torch.tensor(rows), scores)
        assert held.argmax(1).tolist() == [4, 15, 14]
        assert (held > -torch.inf).sum(1).tolist() == [1, 1, 1]
        assert held[1, 15] == scores[1, 15]
        assert count.interventions == (3, 2)
        # Inside an answer of two tokens nothing is counted again; after it nothing is held.
        assert count(torch.tensor([[*rows[1], 15]]), scores[:1]).argmax() == 13
        assert torch.equal(count(torch.tensor([[*rows[1], 15, 13]]), scores[:1]), scores[:1])
        assert count.interventions.rate == pytest.approx(2 / 3)

    def test_without_a_cue_nothing_happens(self, vocab: pt.PerceptionVocabulary) -> None:
        count = CountConsistency(vocab, CUE, NUMBERS.__getitem__, prompt_length=2)
        scores = scores_for(vocab, 14)
        for ids in ([5, 6], [5, 6, 5], [4, 4, 6, 5]):
            assert count(torch.tensor([ids]), scores) is scores

    def test_bad_input(self, vocab: pt.PerceptionVocabulary) -> None:
        with pytest.raises(ConstraintError, match="a cue is at least one token"):
            CountConsistency(vocab, (), NUMBERS.__getitem__)
        scores = scores_for(vocab, 14)
        scores[0, 4] = -torch.inf
        with pytest.raises(ConstraintError, match="row 0: the answer that the evidence gives has a score of -inf"):
            CountConsistency(vocab, CUE, NUMBERS.__getitem__)(torch.tensor([CUE]), scores)


class TestList:
    def test_items_are_numbered_in_turn(self, vocab: pt.PerceptionVocabulary) -> None:
        items = ListConsistency(vocab, CUE, lambda number: [13 + number, 7])
        one, scores = box_ids(vocab, 1, 2, 3, 4), scores_for(vocab, 15)
        written: list[int] = [*CUE]
        for number in (1, 2, 3):
            assert items(torch.tensor([written]), scores).argmax() == 13 + number
            assert items(torch.tensor([[*written, 13 + number]]), scores).argmax() == 7
            assert items(torch.tensor([[*written, 13 + number, 7]]), scores) is scores
            written += [13 + number, *one, 4, *CUE]
        assert items.interventions == (3, 2)  # the second item alone had its number from the model

    def test_a_model_that_knows_no_numbers(
        self, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
    ) -> None:
        """A list with AURORA's brackets, every item of it begun by the prompt's own cue or by the model."""
        items = ListConsistency(vocab, [6], lambda number: [13 + number, 7])
        grammar = pt.PerceptionLogitsProcessor(vocab, pt.decoding.GrammarConfig(depth=False), tokenizer=tokenizer)

        def listing(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """After a box the next item, until three are written."""
            done = len(pt.parse_generation(ids[0], vocab).boxes)
            if int(ids[0, -1]) in (9, 10, 11) and done:
                scores = scores.clone()
                scores[:, 6 if done < 3 else tokenizer.eos_token_id] = 1e4
            return scores

        ids = model.generate(
            torch.tensor([[1, 6]]), logits_processor=[grammar, listing, items], max_new_tokens=60, do_sample=False
        )[0].tolist()
        assert [ids[place + 1] for place, number in enumerate(ids) if number == 6] == [14, 15, 16]


LETTERS = {"A": [16], "B": [17]}
MARKERS = {"A": (0.05, 0.05), "B": (0.95, 0.95)}


class TestMarker:
    def test_the_nearest_by_the_block(self, vocab: pt.PerceptionVocabulary) -> None:
        marker = MarkerConsistency(vocab, CUE, LETTERS, MARKERS, lambda codes: codes / 127)
        codes = np.zeros((10, 10), dtype=np.int64)
        for bright, letter in (((0, 0), "A"), ((9, 9), "B")):
            shown = codes.copy()
            shown[bright] = 127
            assert marker.find_nearest(shown) == letter
        # In the block of the tests the first cell is 0 and the last 7 * 99 % 128 = 53.
        held = marker(torch.tensor([[*block_ids(vocab), *CUE]]), scores_for(vocab, 16))
        assert held.argmax() == 17
        assert marker.interventions == (1, 1)
        assert marker(torch.tensor([[*block_ids(vocab), *CUE]]), scores_for(vocab, 17)).argmax() == 17
        assert marker.interventions == (2, 1)

    @pytest.mark.parametrize("kind", ["squash", "letterbox", "center_crop"])
    def test_a_point_of_the_image_through_its_frame(self, vocab: pt.PerceptionVocabulary, kind: str) -> None:
        frame = getattr(pt.ImageFrame, kind)((640, 480))
        points = {"A": (200.0, 240.0), "B": (440.0, 100.0)}
        framed = {letter: frame.to_frame(np.array(point)) for letter, point in points.items()}
        seen = {letter: (float(x) / frame.size, float(y) / frame.size) for letter, (x, y) in framed.items()}
        marker = MarkerConsistency(vocab, CUE, LETTERS, seen, lambda codes: codes / 127)
        for letter, point in framed.items():
            codes = np.zeros((10, 10), dtype=np.int64)
            codes[frame.to_grid_cell(point)] = 9
            assert marker.find_nearest(codes) == letter

    def test_without_a_block_the_model_answers(self, vocab: pt.PerceptionVocabulary) -> None:
        marker = MarkerConsistency(vocab, CUE, LETTERS, MARKERS, lambda codes: codes)
        scores = scores_for(vocab, 16)
        assert marker(torch.tensor([CUE]), scores) is scores
        assert marker.interventions == (0, 0)

    @pytest.mark.parametrize(
        ("markers", "message"),
        [
            ({}, "every marker needs"),
            ({"C": (0.0, 0.0)}, "every marker needs"),
            ({"A": (1.0, 0.0)}, r"in \[0, 1\); A is at"),
        ],
    )
    def test_bad_input(
        self, vocab: pt.PerceptionVocabulary, markers: dict[str, tuple[float, float]], message: str
    ) -> None:
        with pytest.raises(ConstraintError, match=message):
            MarkerConsistency(vocab, CUE, LETTERS, markers, lambda codes: codes)
