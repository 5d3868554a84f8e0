"""Batches of a curriculum: mixture, processes, resumed runs, and the loaders of torch and Accelerate."""

from __future__ import annotations

import cProfile
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from perceptok.errors import LossError
from perceptok.losses import CurriculumSampler, LinearSchedule, TemperatureSchedule

SIZES = {"cot": 40, "atomic": 25, "direct": 7}
TASKS = np.repeat(list(SIZES), list(SIZES.values()))


class Numbers(Dataset[int]):
    """Samples that say their own number."""

    def __init__(self, first: int, size: int) -> None:
        self.first, self.size = first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return self.first + index


def dataset() -> ConcatDataset[int]:
    return ConcatDataset([Numbers(0, 40), Numbers(40, 25), Numbers(65, 7)])


def sampler(**changes: object) -> CurriculumSampler:
    options: dict[str, object] = {"total_steps": 50, "batch_size": 8, "seed": 3, **changes}
    return CurriculumSampler(SIZES, LinearSchedule(), **options)  # type: ignore[arg-type]


def test_every_batch_has_the_mixture_of_the_schedule() -> None:
    schedule = LinearSchedule()
    batches = list(sampler())
    assert len(batches) == 50
    for step, batch in enumerate(batches):
        expected = dict(zip(schedule.tasks, 8 * schedule.probabilities(step, 50), strict=True))
        for task in SIZES:
            assert abs((TASKS[batch] == task).sum() - expected[task]) < 1
    assert {str(TASKS[index]) for batch in batches[:5] for index in batch} == {"atomic"}


def test_rounding_is_unbiased() -> None:
    long = CurriculumSampler(
        {"a": 10, "b": 10, "c": 10}, TemperatureSchedule({"a": 0.0, "b": 0.3, "c": 2.1}, 1.0, 0.0),
        total_steps=2000, batch_size=3,
    )  # fmt: skip
    list(long)
    mixture = long.mixture()
    assert sum(mixture.counts.values()) == 6000
    for task, expected in mixture.expected.items():
        assert abs(mixture.counts[task] - 6000 * expected) < 6
        assert mixture.shares[task] == mixture.counts[task] / 6000


def test_samples_repeat_only_after_all_others_of_the_task() -> None:
    times = np.zeros(len(TASKS), dtype=int)
    for batch in sampler(total_steps=200):
        times += np.bincount(batch, minlength=len(TASKS))
        for task in SIZES:
            assert np.ptp(times[task == TASKS]) <= 1
    assert all(times[task == TASKS].min() >= 2 for task in SIZES)


def test_the_seed_determines_the_order() -> None:
    assert list(sampler()) == list(sampler())
    assert list(sampler(seed=4)) != list(sampler())
    assert list(sampler())[10] != sorted(list(sampler())[10])


def test_processes_share_every_batch() -> None:
    whole = list(sampler())
    parts = [list(sampler(rank=rank, world_size=4)) for rank in range(4)]
    assert [[index for part in parts for index in part[step]] for step in range(50)] == whole
    assert all(len(batch) == 2 for part in parts for batch in part)
    # Every process sees every task in the end: the mixture is not split by rank.
    assert all({str(TASKS[index]) for batch in part for index in batch} == set(SIZES) for part in parts)


@pytest.mark.parametrize("stop", [0, 1, 23, 50])
def test_a_resumed_run_draws_the_same_samples(stop: int) -> None:
    whole, first = list(sampler()), sampler()
    steps = iter(first)
    begun = [next(steps) for _ in range(stop)]
    state = json.loads(json.dumps(first.state_dict()))
    second = sampler()
    second.load_state_dict(state)
    assert len(second) == 50 - stop
    assert begun + list(second) == whole
    assert list(second) == whole  # and from the first step again
    # Another number of processes goes on with the same batches.
    parts = [sampler(rank=rank, world_size=2) for rank in range(2)]
    for part in parts:
        part.load_state_dict(state)
    assert [first + second for first, second in zip(*parts, strict=True)] == whole[stop:]


def test_a_prefetching_loader_is_resumed_at_the_trained_step() -> None:
    first = sampler()
    loader = iter(DataLoader(dataset(), batch_sampler=first, num_workers=1, prefetch_factor=4))
    batches = [next(loader).tolist() for _ in range(3)]
    assert first.step > 3
    second = sampler()
    second.load_state_dict(first.state_dict(step=3))
    assert batches + [batch.tolist() for batch in DataLoader(dataset(), batch_sampler=second)] == list(sampler())


def test_every_iteration_is_the_whole_curriculum() -> None:
    """A look at the first batch draws nothing away, and the length does not shrink while batches are drawn."""
    first = sampler()
    loader = DataLoader(dataset(), batch_sampler=first)
    next(iter(loader))
    lengths = [len(loader) for _ in loader]
    assert lengths == [50] * 50
    assert [batch.tolist() for batch in loader] == list(sampler())
    assert sum(first.mixture().counts.values()) == 400


def test_through_accelerate() -> None:
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(dataset(), batch_sampler=sampler()))
    assert [batch.tolist() for batch in loader] == list(sampler())
    rest = skip_first_batches(loader, 7)
    assert len(rest) == 43
    assert [batch.tolist() for batch in rest] == list(sampler())[7:]
    assert len(rest) == 43


def test_through_accelerate_in_two_processes(in_two_processes: Callable[[Path], list[Any]]) -> None:
    ranks = in_two_processes(Path(__file__).with_name("draw_in_two.py"))
    whole = list(sampler())
    for key in ("shard", "dispatch", "workers"):
        assert [ranks[0][key], ranks[1][key]] == [whole[::2], whole[1::2]], key
    for key in ("split", "dispatch_split"):
        assert [first + second for first, second in zip(ranks[0][key], ranks[1][key], strict=True)] == whole, key
    # Five batches of each process are left out; where one process reads for all, Accelerate counts those of all.
    for key in ("shard_skipped", "workers_skipped"):
        assert [ranks[0][key], ranks[1][key]] == [whole[10::2], whole[11::2]], key
    assert ranks[0]["dispatch_skipped"][:22] == whole[5:49:2]
    assert ranks[1]["dispatch_skipped"][:22] == whole[6:50:2]


@pytest.mark.parametrize("split", [False, True])
def test_accelerate_shards_it_itself(split: bool) -> None:
    shards = [list(BatchSamplerShard(sampler(), 2, rank, split_batches=split)) for rank in range(2)]
    whole = list(sampler())
    if split:
        assert shards == [list(sampler(rank=rank, world_size=2)) for rank in range(2)]
    else:
        assert shards == [whole[::2], whole[1::2]]


def test_the_mixture_of_some_steps() -> None:
    whole = sampler()
    assert whole.mixture().counts == {"cot": 0, "atomic": 0, "direct": 0}
    batches = list(whole)
    mixture = whole.mixture(20, 35)
    counted = {task: int(sum((TASKS[batch] == task).sum() for batch in batches[20:35])) for task in SIZES}
    assert mixture.counts == counted
    assert mixture.expected["atomic"] == pytest.approx(np.mean([0.6] * 5 + [0.5] * 5 + [0.4] * 5))
    assert sampler(rank=1, world_size=2).mixture(20, 35) == mixture


def test_the_released_size() -> None:
    """200,000 depth samples in 12,500 steps: resuming draws the steps before again, and the work of each is bounded."""
    big = CurriculumSampler(
        {"atomic": 20000, "cot": 20000, "direct": 20000}, LinearSchedule(), total_steps=12500, batch_size=16
    )
    for _ in range(3):
        next(iter(big))
    assert torch.tensor(next(iter(big))).shape == (16,)
    big.load_state_dict(big.state_dict(step=12000))
    assert count_calls(lambda: next(iter(big))) < 12_000 * 100


def count_calls(work: Callable[[], object]) -> int:
    """Number of functions that a call calls, built-in ones too."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 0.5], [1.0], [[0.5, 0.5]]])
def test_an_invalid_schedule_is_refused(shares: list[float]) -> None:
    class Own:
        tasks = ("a", "b")

        def probabilities(self, step: int, total_steps: int) -> np.ndarray:
            return np.array(shares)

    own = CurriculumSampler({"a": 5, "b": 5}, Own(), total_steps=5, batch_size=4)
    with pytest.raises(LossError, match=r"one for each of 2 tasks; the schedule gave \[.* at step 0"):
        next(iter(own))


def test_bad_input_is_refused() -> None:
    with pytest.raises(LossError, match="at least one task; got none"):
        CurriculumSampler({}, LinearSchedule(), total_steps=1, batch_size=1)
    with pytest.raises(LossError, match="have the tasks atomic, box, the schedule atomic, cot, direct"):
        CurriculumSampler({"atomic": 1, "box": 1}, LinearSchedule(), total_steps=1, batch_size=1)
    for size in (0, -1, 1.5, [1, 2]):
        with pytest.raises(LossError, match=r"at least 1 for each task; got .* for direct"):
            CurriculumSampler({**SIZES, "direct": size}, LinearSchedule(), total_steps=1, batch_size=1)  # type: ignore[dict-item]
    with pytest.raises(LossError, match="the seed must not be negative; got -1"):
        sampler(seed=-1)
    for wrong in ({"total_steps": 0}, {"batch_size": 0}):
        with pytest.raises(LossError, match="total_steps and batch_size must be positive"):
            sampler(**wrong)
    for wrong in ({"rank": 2, "world_size": 2}, {"world_size": 3}, {"rank": -1}):
        with pytest.raises(LossError, match=r"ranks must be 0\.\."):
            sampler(**wrong)
    with pytest.raises(LossError, match="another curriculum: seed was 3, now 4"):
        sampler(seed=4).load_state_dict(sampler().state_dict())
    with pytest.raises(LossError, match="another curriculum: schedule was LinearSchedule"):
        CurriculumSampler(SIZES, LinearSchedule(last=0.2), total_steps=50, batch_size=8, seed=3).load_state_dict(
            sampler().state_dict()
        )
    with pytest.raises(LossError, match=r"steps must be 0\.\.50; got 51"):
        sampler().state_dict(51)
    with pytest.raises(LossError, match=r"steps must be 0\.\.50; the state has 51"):
        sampler().load_state_dict({**sampler().state_dict(), "step": 51})
    with pytest.raises(LossError, match="0 <= first <= last <= 50"):
        sampler().mixture(3, 2)
