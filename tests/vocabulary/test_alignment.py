"""The map of Eq. 1: compared with all permutations, as an object, and as a file."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import AlignmentError, OutputError
from perceptok.vocabulary import AlignmentAccumulator, VocabularyAlignment, align_vocabularies


def small_costs(seed: int) -> np.ndarray:
    """1..5 rows, as many columns or more; every other one of few small integers, full of ties."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 6))
    shape = rows, int(rng.integers(rows, 7))
    return rng.integers(0, 3, shape).astype(float) if seed % 2 else rng.normal(size=shape)


def test_the_map_is_the_cheapest_permutation() -> None:
    for seed in range(150):
        cost = small_costs(seed)
        rows, width = cost.shape
        every = list(permutations(range(width), rows))
        best = min(sum(cost[row, targets[row]] for row in range(rows)) for targets in every)
        alignment = align_vocabularies(cost)
        assert alignment.cost == pytest.approx(best, abs=1e-12)
        assert alignment.cost == pytest.approx(sum(cost[row, alignment.targets[row]] for row in range(rows)), abs=1e-12)
        assert alignment.auxiliary_size == width


def test_among_optimal_maps_the_nearest_to_the_start_is_taken() -> None:
    for seed in range(1, 300, 2):
        cost = small_costs(seed)
        rows, width = cost.shape
        start = VocabularyAlignment(tuple(np.random.default_rng(seed).permutation(width)[:rows].tolist()), width)
        every = list(permutations(range(width), rows))
        best = min(sum(cost[row, targets[row]] for row in range(rows)) for targets in every)
        agreement = max(
            sum(targets[row] == start.targets[row] for row in range(rows))
            for targets in every
            if sum(cost[row, targets[row]] for row in range(rows)) == best
        )
        alignment = align_vocabularies(cost, start=start)
        assert alignment.cost == best
        assert sum(first == second for first, second in zip(alignment.targets, start.targets, strict=True)) == agreement


def test_ties_are_broken_towards_the_identity() -> None:
    identity = VocabularyAlignment.identity(6)
    assert align_vocabularies(np.zeros((6, 6))) == identity
    assert align_vocabularies(np.full((6, 9), 2.5)) == VocabularyAlignment.identity(6, 9)
    cost = np.zeros((6, 6))
    cost[[1, 4]] = 1.0
    cost[1, 4] = cost[4, 1] = 0.2  # two codes occurred, and are swapped; the others keep their targets
    assert align_vocabularies(cost).targets == (0, 4, 2, 3, 1, 5)
    cost = np.random.default_rng(0).integers(0, 4, (40, 60)).astype(float)
    first = align_vocabularies(cost)
    halves = torch.tensor(cost).bfloat16(), torch.tensor(cost).half()
    for same in (np.asfortranarray(cost), cost.astype(np.float32), cost.astype(int), torch.tensor(cost), *halves):
        assert align_vocabularies(same) == first


def noisy_log_probs(codes: torch.Tensor, hidden: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """A model that has partly learned the hidden tokens: right in about half of all cases."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(codes), size, generator=generator)
    logits[torch.arange(len(codes)), hidden[codes]] += 2.5
    return torch.log_softmax(logits, -1)


@pytest.mark.parametrize("size", [128, 200])
def test_hidden_permutation_is_recovered_from_noisy_predictions(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randperm(size, generator=generator)[:128]
    hard, soft = AlignmentAccumulator(128, size), AlignmentAccumulator(128, size)
    right = 0
    for batch in range(8):
        codes = torch.randint(0, 128, (500,), generator=generator)
        log_probs = noisy_log_probs(codes, hidden, size, batch)
        right += int((log_probs.argmax(-1) == hidden[codes]).sum())
        hard.update(codes, log_probs)
        blurred = 0.6 * torch.nn.functional.one_hot(codes, 128) + 0.4 / 128
        soft.update(blurred, log_probs)
    assert 0.2 < right / 4000 < 0.8
    for gathered in (hard, soft):
        assert align_vocabularies(gathered.cost).targets == tuple(hidden.tolist())


def test_accurate_predictions_give_the_identity() -> None:
    gathered = AlignmentAccumulator(128)
    codes = torch.arange(128).repeat(30)
    gathered.update(codes, noisy_log_probs(codes, torch.arange(128), 128, 0))
    alignment = align_vocabularies(gathered.cost)
    assert alignment == VocabularyAlignment.identity(128)
    assert alignment.cost == pytest.approx(float(gathered.cost.diagonal().sum()))


def test_an_earlier_map_is_kept_where_it_is_optimal() -> None:
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(60, 80))
    cold = align_vocabularies(cost)
    assert align_vocabularies(cost, start=cold) == cold
    # A little drift leaves most of the map; the warm result is as good as a cold one.
    drifted = cost + 0.02 * rng.normal(size=cost.shape)
    warm, again = align_vocabularies(drifted, start=cold), align_vocabularies(drifted)
    assert warm.cost == pytest.approx(again.cost, abs=1e-12)
    assert sum(first == second for first, second in zip(warm.targets, cold.targets, strict=True)) > 45
    wrong = VocabularyAlignment(tuple(reversed(range(60))), 80)
    assert align_vocabularies(cost, start=wrong) == cold


def test_negative_and_huge_costs() -> None:
    rng = np.random.default_rng(2)
    cost = rng.normal(size=(50, 50))
    expected = align_vocabularies(cost)
    for changed in (cost - 1000, cost * 1e12, cost * 1e-12, -1000 + cost * 1e-3):
        assert align_vocabularies(changed).targets == expected.targets


def test_codes_numbers_and_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    alignment = VocabularyAlignment((5, 0, 127), 128)
    codes = torch.tensor([[0, 1], [2, 2]])
    assert alignment.to_auxiliary(codes).tolist() == [[5, 0], [127, 127]]
    assert alignment.to_specialist(torch.tensor([127, 1, 5, 0])).tolist() == [2, -1, 0, 1]
    assert alignment.token_ids(vocab).tolist() == [vocab.token_id(pt.tokens.DEPTH, code) for code in (5, 0, 127)]
    ids = torch.tensor(
        [
            vocab.token_id(pt.tokens.DEPTH, 127),
            vocab.token_id(pt.tokens.DEPTH, 1),
            vocab.start_id(pt.tokens.DEPTH),
            3,
            -100,
        ]
    )
    assert alignment.codes_of_ids(ids, vocab).tolist() == [2, -1, -1, -1, -1]
    wide = VocabularyAlignment((7, 335), 336)
    assert wide.token_ids(vocab, pt.tokens.PIXEL).tolist() == [
        vocab.token_id(pt.tokens.PIXEL, code) for code in (7, 335)
    ]


def test_composition_and_inverse() -> None:
    rng = np.random.default_rng(0)
    first = VocabularyAlignment(tuple(rng.permutation(8)[:5].tolist()), 8)
    second = VocabularyAlignment(tuple(rng.permutation(12)[:8].tolist()), 12)
    codes = torch.arange(5)
    both = first.compose(second)
    assert torch.equal(both.to_auxiliary(codes), second.to_auxiliary(first.to_auxiliary(codes)))
    assert both.auxiliary_size == 12
    square = VocabularyAlignment(tuple(rng.permutation(9).tolist()), 9)
    assert square.compose(square.inverse()) == VocabularyAlignment.identity(9)
    assert square.inverse().compose(square) == VocabularyAlignment.identity(9)
    with pytest.raises(AlignmentError, match="3 of 8 auxiliary numbers have no code"):
        first.inverse()
    with pytest.raises(AlignmentError, match="has 8 codes, this map 12 auxiliary numbers"):
        second.compose(second)


def test_targets_of_any_integers() -> None:
    expected = VocabularyAlignment((2, 0), 3)
    for targets in ([2, 0], np.array([2, 0]), torch.tensor([2, 0]), (np.int64(2), np.int64(0))):
        alignment = VocabularyAlignment(targets, 3)  # type: ignore[arg-type]
        assert alignment == expected
        assert hash(alignment) == hash(expected)
        assert json.dumps(alignment.targets) == "[2, 0]"


def test_saved_and_loaded(tmp_path: Path) -> None:
    alignment = align_vocabularies(np.random.default_rng(0).normal(size=(20, 30)))
    alignment.save(tmp_path / "map.json")
    loaded = VocabularyAlignment.load(tmp_path / "map.json")
    assert loaded == alignment
    assert loaded.cost == alignment.cost
    with pytest.raises(OutputError, match="exists already"):
        alignment.save(tmp_path / "map.json")
    VocabularyAlignment.identity(2).save(tmp_path / "map.json", force=True)
    assert VocabularyAlignment.load(tmp_path / "map.json") == VocabularyAlignment.identity(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [0, 0]}, "codes 0 and 1 both map to 0"),
        ({"targets": [0, 2]}, r"auxiliary numbers must be 0\.\.1; code 1 maps to 2"),
        ({"targets": [0, 1.0]}, "targets and auxiliary_size must be integers"),
        ({"targets": "01"}, "targets and auxiliary_size must be integers"),
        ({"targets": []}, "at least one code"),
        ({"auxiliary_size": 1}, "2 specialist codes into 1 auxiliary tokens"),
        ({"format": 2}, "format 2, this release reads 1"),
        ({"extra": 1}, "an object with the keys auxiliary_size, cost"),
    ],
)
def test_damaged_file(change: dict[str, object], message: str, tmp_path: Path) -> None:
    VocabularyAlignment.identity(2).save(tmp_path / "map.json")
    content = json.loads((tmp_path / "map.json").read_text())
    (tmp_path / "map.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(AlignmentError, match=message):
        VocabularyAlignment.load(tmp_path / "map.json")


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    for name, content in (("none.json", None), ("bytes.json", b"\xff\xfe"), ("cut.json", b'{"format": 1')):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(AlignmentError, match=f"{name}: not a readable alignment"):
            VocabularyAlignment.load(tmp_path / name)


def test_bad_input_is_refused() -> None:
    cost = np.zeros((4, 4))
    with pytest.raises(AlignmentError, match=r"5 specialist codes into 4 auxiliary tokens: .* transpose"):
        align_vocabularies(np.zeros((5, 4)))
    for bad in (math.nan, math.inf, -math.inf):
        broken = cost.copy()
        broken[2, 1] = bad
        with pytest.raises(AlignmentError, match=rf"costs must be finite; got {bad} at \(2, 1\)"):
            align_vocabularies(broken)
    for wrong in (np.zeros(4), np.zeros((0, 0)), np.zeros((2, 2, 2)), np.zeros((2, 2), dtype=complex), [["a"]]):
        with pytest.raises(AlignmentError, match=r"costs must be a real \(\|V_spec\|, \|V_aux\|\) matrix"):
            align_vocabularies(wrong)
    with pytest.raises(AlignmentError, match="4 x 4, `start` is 4 x 5"):
        align_vocabularies(cost, start=VocabularyAlignment.identity(4, 5))
    for targets in ((0, 1.5), "01", (None,), 3, torch.tensor([0.0, 1.0])):
        with pytest.raises(AlignmentError, match="targets must be integers, one for each code"):
            VocabularyAlignment(targets, 3)  # type: ignore[arg-type]
    alignment = VocabularyAlignment.identity(3)
    for numbers in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([1.0])):
        with pytest.raises(AlignmentError, match=r"specialist codes must be integers 0\.\.2"):
            alignment.to_auxiliary(numbers)
        with pytest.raises(AlignmentError, match=r"auxiliary numbers must be integers 0\.\.2"):
            alignment.to_specialist(numbers)
