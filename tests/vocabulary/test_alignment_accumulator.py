"""The cost matrix: compared with loops, in any batches, with masks, and over processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptok.errors import AlignmentError
from perceptok.vocabulary import AlignmentAccumulator


def batch(seed: int, positions: int = 40, size: int = 5, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Soft teacher, hard teacher and log-probabilities at (4, positions / 4) places."""
    generator = torch.Generator().manual_seed(seed)
    places = 4, positions // 4
    soft = torch.softmax(torch.randn(*places, size, generator=generator), -1)
    hard = torch.randint(0, size, places, generator=generator)
    return soft, hard, torch.log_softmax(torch.randn(*places, width, generator=generator), -1)


def test_the_cost_equals_that_of_loops() -> None:
    soft, hard, logs = batch(0)
    for teacher in (soft, hard):
        gathered = AlignmentAccumulator(5, 7)
        gathered.update(teacher, logs)
        expected = torch.zeros(5, 7, dtype=torch.float64)
        for row in range(4):
            for place in range(10):
                for code in range(5):
                    q = float(teacher[row, place] == code) if teacher is hard else float(teacher[row, place, code])
                    expected[code] -= q * logs[row, place].double()
        assert torch.allclose(gathered.cost, expected, rtol=1e-13)
        assert gathered.positions == 40


def test_batches_of_any_size_have_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard, logs = batch(1)
    for teacher in (soft, hard):
        whole, parts, merged, other = (AlignmentAccumulator(5, 7) for _ in range(4))
        whole.update(teacher, logs)
        for row in range(4):
            parts.update(teacher[row], logs[row])
        merged.update(teacher[:1], logs[:1])
        other.update(teacher[1:], logs[1:])
        merged.merge(other)
        with monkeypatch.context() as patch:
            patch.setattr("perceptok.vocabulary.alignment._ELEMENTS", 7 * 7)
            small = AlignmentAccumulator(5, 7)
            small.update(teacher, logs)
        for accumulator in (parts, merged, small):
            assert torch.allclose(accumulator.cost, whole.cost, rtol=1e-13)
            assert accumulator.positions == 40


def test_small_terms_are_not_lost_in_a_long_sum() -> None:
    """In float32, a sum of 2**25 ones would stop growing at 2**24."""
    gathered = AlignmentAccumulator(1)
    gathered.cost.fill_(2.0**24)
    for _ in range(100):
        gathered.update(torch.zeros(1, dtype=torch.int64), torch.tensor([[-0.25]]))
    assert gathered.cost.item() == 2**24 + 25


def test_masked_positions_are_ignored() -> None:
    soft, hard, logs = batch(2)
    mask = torch.rand(4, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    for teacher, poison in ((soft, torch.nan), (hard, -100)):
        expected, gathered = AlignmentAccumulator(5, 7), AlignmentAccumulator(5, 7)
        expected.update(teacher[mask], logs[mask])
        dirty_teacher, dirty_logs = teacher.clone(), logs.clone()
        dirty_teacher[~mask], dirty_logs[~mask] = poison, torch.nan
        gathered.update(dirty_teacher, dirty_logs, mask)
        assert torch.equal(gathered.cost, expected.cost)
        assert gathered.positions == int(mask.sum())
    nothing = AlignmentAccumulator(5, 7)
    nothing.update(soft, logs, torch.zeros(4, 10, dtype=torch.bool))
    assert not nothing.cost.any()
    assert nothing.positions == 0


def test_half_precision_teacher_and_model() -> None:
    soft, _, logs = batch(3)
    gathered, expected = AlignmentAccumulator(5, 7), AlignmentAccumulator(5, 7)
    gathered.update(soft.bfloat16(), logs.bfloat16())
    expected.update(soft, logs)
    assert torch.allclose(gathered.cost, expected.cost, rtol=2e-2)


def test_a_saved_state_is_continued() -> None:
    soft, hard, logs = batch(4)
    first, second = AlignmentAccumulator(5, 7), AlignmentAccumulator(5, 7)
    first.update(soft, logs)
    second.load_state_dict(first.state_dict())
    first.update(hard, logs)
    assert not torch.equal(first.cost, second.cost)
    second.update(hard, logs)
    assert torch.equal(first.cost, second.cost)
    assert second.positions == 80


def test_all_reduce_of_a_single_process_is_a_copy() -> None:
    soft, _, logs = batch(5)
    gathered = AlignmentAccumulator(5, 7)
    gathered.update(soft, logs)
    reduced = gathered.all_reduce()
    assert torch.equal(reduced.cost, gathered.cost)
    reduced.update(soft, logs)
    assert gathered.positions == 40


def test_two_processes_have_the_sum_of_one(in_two_processes: Callable[[Path], list[Any]]) -> None:
    ranks = in_two_processes(Path(__file__).with_name("gather_in_two.py"))
    alone = AlignmentAccumulator(5, 7)
    for seed in range(4):
        soft, _, logs = batch(seed)
        alone.update(soft, logs)
    for result in ranks:
        for reduced in ("first", "second"):
            assert torch.allclose(torch.tensor(result[reduced], dtype=torch.float64), alone.cost, rtol=1e-13)
        assert result["positions"] == [160, 160, 80]


def test_bad_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard, logs = batch(6)
    gathered = AlignmentAccumulator(5, 7)
    with pytest.raises(AlignmentError, match="got 8 and 7: a one-to-one map needs a token for every code"):
        AlignmentAccumulator(8, 7)
    with pytest.raises(AlignmentError, match="got 0 and 0"):
        AlignmentAccumulator(0)
    with pytest.raises(AlignmentError, match=r"shape \(\.\.\., 7\), a teacher \(\.\.\., 5\) if soft"):
        gathered.update(soft, logs[..., :6])
    for teacher in (soft[..., :4], soft[:3], hard[:3], hard[..., None]):
        with pytest.raises(AlignmentError, match="at the same positions"):
            gathered.update(teacher, logs)
    with pytest.raises(AlignmentError, match=r"a mask must be bool \(4, 10\); got torch.int64"):
        gathered.update(soft, logs, torch.ones(4, 10, dtype=torch.int64))
    with pytest.raises(AlignmentError, match=r"codes must be 0\.\.4; got -1\.\."):
        gathered.update(hard - 1, logs)
    with pytest.raises(AlignmentError, match="pass log_softmax, not logits"):
        gathered.update(soft, logs + 5)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(AlignmentError, match="finite and at most 0"):
            gathered.update(soft, logs.masked_fill(hard[..., None] == 2, bad))
    with pytest.raises(AlignmentError, match=r"row 0 of the unmasked ones sums to 1\.1"):
        gathered.update(soft * 1.1, logs)
    late = soft.clone()
    late[3, 4] *= 2
    with monkeypatch.context() as patch:
        patch.setattr("perceptok.vocabulary.alignment._ELEMENTS", 7 * 7)
        with pytest.raises(AlignmentError, match="row 34 of the unmasked ones sums to 2"):
            gathered.update(late, logs)
    with pytest.raises(AlignmentError, match="smallest entry is -1"):
        gathered.update(torch.tensor([[2.0, -1.0, 0.0, 0.0, 0.0]]), logs[0, :1])
    with pytest.raises(AlignmentError, match="sums to nan"):
        gathered.update(soft * torch.nan, logs)
    assert gathered.positions == 0
    assert not gathered.cost.any()
    with pytest.raises(AlignmentError, match="sizes differ"):
        gathered.merge(AlignmentAccumulator(5))
    with pytest.raises(AlignmentError, match=r"the state has the sizes \(5, 5\), this accumulator \(5, 7\)"):
        gathered.load_state_dict(AlignmentAccumulator(5).state_dict())
    with pytest.raises(AlignmentError, match="a state must have cost and positions; got nothing"):
        gathered.load_state_dict({})
