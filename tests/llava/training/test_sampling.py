"""The samples of each step: AURORA's passes against a slow reading of their description, and the order of the files."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import perceptok as pt
from perceptok.errors import ConfigError
from perceptok.llava import CurriculumSettings, finetune
from perceptok.llava.training.finetuning import prepare_run
from perceptok.llava.training.samples import RecordSamples, TrainingSample
from perceptok.llava.training.sampling import (
    MicroBatches,
    OrderedSampler,
    count_samples,
    count_steps,
    make_curriculum,
    make_pass_order,
    make_schedule,
)
from tests.llava.records import write_some_records
from tests.llava.training.test_finetuning import config, losses

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

AURORA = CurriculumSettings(kind="aurora")


def make_samples(regimes: list[str], regime: str | None = None) -> RecordSamples:
    """Samples named by their place in the file; with `regime`, those of that one alone."""
    atomic = regimes.count("atomic")
    rows = [(str(number), name) for number, name in enumerate(regimes) if regime in (None, name)]
    samples = [TrainingSample(row, name, (), "", np.zeros(0), np.zeros(0, bool), 1) for row, name in rows]
    return RecordSamples(samples, [name for _, name in rows], atomic_records=atomic, dropped=0)


def read_order(samples: RecordSamples, order: np.ndarray) -> list[str]:
    return [samples[index].id for index in order.tolist()]


def test_the_passes_of_aurora() -> None:
    """200 atomic records and 5 pairs of a direct label and its chain of thought, shuffled into one file."""
    pairs = [["direct", "cot"]] * 5
    blocks = [*pairs, *[["atomic"]] * 200]
    random.Random(4).shuffle(blocks)
    regimes = [regime for block in blocks for regime in block]
    samples = make_samples(regimes)
    names = read_order(samples, make_pass_order(AURORA, samples, seed=3))
    others = [str(number) for number, regime in enumerate(regimes) if regime != "atomic"]
    assert len(names) == 10 * 200
    for number in range(10):
        part, atomic = names[200 * number : 200 * (number + 1)], 200 - 20 * number
        drawn = part[:atomic]
        assert {regimes[int(name)] for name in drawn} == {"atomic"}
        assert len({*drawn}) == atomic  # without replacement
        assert part[atomic:] == others * (2 * number)
        assert drawn != sorted(drawn, key=int)
    assert names[:200] != names[200:400]
    assert names == read_order(samples, make_pass_order(AURORA, samples, seed=3))
    assert names != read_order(samples, make_pass_order(AURORA, samples, seed=4))


def test_passes_whose_rest_does_not_divide() -> None:
    samples = make_samples(["atomic"] * 10 + ["cot"] * 3)
    names = Counter(read_order(samples, make_pass_order(AURORA, samples, seed=0)))
    # The rests of the passes are 0, 1, ... 9 samples: the list of 3 fits 0, 0, 0, 1, 1, 1, 2, 2, 2, 3 times.
    assert [names[str(number)] for number in (10, 11, 12)] == [12] * 3
    assert sum(names[str(number)] for number in range(10)) == 55


def test_passes_of_one_regime_are_those_of_the_whole_without_the_others() -> None:
    regimes = ["atomic"] * 20 + ["direct", "cot"]
    direct = make_samples(regimes, "direct")
    assert len(make_pass_order(AURORA, direct, seed=0)) == sum(2 * number for number in range(10))
    atomic = make_samples(regimes, "atomic")
    assert len(make_pass_order(AURORA, atomic, seed=0)) == sum(20 - 2 * number for number in range(10))


def test_passes_that_draw_nothing_are_refused() -> None:
    samples = make_samples(["atomic"] * 4 + ["direct"] * 4)
    with pytest.raises(ConfigError, match=r"the list of 4 records that are not atomic, .* at most 3 of its 4 samples"):
        make_pass_order(CurriculumSettings(kind="aurora", last=0.25), samples, seed=0)
    with pytest.raises(ConfigError, match="draws no sample"):
        make_pass_order(CurriculumSettings(kind="aurora", first=0.0, last=0.0), make_samples(["atomic"] * 4), seed=0)
    with pytest.raises(ConfigError, match=r"curriculum\.first is a share"):
        CurriculumSettings(first=1.5)


def test_processes_share_the_steps_of_an_order_that_begins_again() -> None:
    order = OrderedSampler(list(range(10)), ["atomic"] * 5 + ["cot"] * 5, total_steps=3, batch_size=4)
    assert list(order) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert order.mixture(1, 2).counts == {"atomic": 1, "cot": 3}
    assert order.mixture().shares == {"atomic": 7 / 12, "cot": 5 / 12}
    parts = [list(MicroBatches(order, batch_size=1, rank=rank, world_size=2)) for rank in range(2)]
    assert parts == [[[0], [2], [4], [6], [8], [0]], [[1], [3], [5], [7], [9], [1]]]


@pytest.mark.parametrize("kind", ["linear", "aurora", "temperature", "proportional", "sequential"])
@pytest.mark.parametrize("regime", ["atomic", "cot", "direct"])
def test_every_curriculum_takes_one_regime_alone(tmp_path: Path, kind: str, regime: str) -> None:
    samples = make_samples(["atomic"] * 10 + ["direct", "cot"] * 2, regime)
    settings = config(tmp_path, tmp_path, tmp_path, curriculum={"kind": kind})
    steps = list(make_curriculum(settings, samples, steps=7, step_size=4))
    assert [len(step) for step in steps] == [4] * 7
    assert {samples[index].group for step in steps for index in step} == {regime}
    # The rests of the passes are 0, 1, ... 9 samples, into which a list of 2 fits 20 times.
    epoch = len(samples) if kind != "aurora" else 55 if regime == "atomic" else 40
    alone = config(tmp_path, tmp_path, tmp_path, curriculum={"kind": kind}, regimes=[regime])
    assert count_samples(alone, {"atomic": 10, "direct": 2, "cot": 2}) == epoch
    if kind == "aurora":
        assert len(make_pass_order(settings.curriculum, samples, seed=0)) == epoch
    schedule = make_schedule(settings.curriculum, samples.sizes)
    assert [schedule.probabilities(step, 10).tolist() for step in range(10)] == [[1.0]] * 10


def test_shares_of_the_regimes_beside_atomic() -> None:
    settings = CurriculumSettings(others={"cot": 3.0, "direct": 1.0})
    assert make_schedule(settings, {"cot": 2, "direct": 9}).probabilities(0, 10).tolist() == [0.75, 0.25]
    assert make_schedule(settings, {"atomic": 1, "cot": 2}).probabilities(9, 10).tolist() == pytest.approx([0.1, 0.9])


def test_records_in_the_order_of_their_files(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    first, second = (write_some_records(tmp_path / name, codec, 5) for name in ("a", "b"))
    shape = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2}
    settings = config(tiny_llava, first, tmp_path / "run", curriculum={"kind": "sequential"}, **shape)
    settings = replace(settings, records=(str(second), str(first)))
    run = prepare_run(settings)
    assert run.steps == 10
    names = [str(run.samples[index].images[0].relative_to(tmp_path)) for step in run.curriculum for index in step]
    assert names == [f"{folder}/{number}.png" for folder in ("b", "a") for number in range(5)] * 2


@pytest.mark.parametrize("save_steps", [2, 4])
def test_a_run_of_passes_resumes(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path, save_steps: int) -> None:
    """From its checkpoint, and from its beginning where there is none yet."""
    records = write_some_records(tmp_path / "data", codec, 12, regimes=("atomic",) * 4 + ("direct", "cot"))
    shape = {"curriculum": {"kind": "aurora", "passes": 3, "last": 0.0}, "effective_batch_size": 4, "max_steps": -1}
    settings = config(tiny_llava, records, tmp_path / "run", **shape)
    run = prepare_run(settings)
    # Passes of 8 atomic samples; of 4 and the 4 others; of the others twice.
    assert run.steps == count_steps(settings, run.samples, 4) == 6
    assert [run.curriculum.mixture(step, step + 1).counts["atomic"] for step in range(6)] == [4, 4, 4, 0, 0, 0]
    assert finetune(settings).steps == 6
    whole = losses(tmp_path / "run")
    resumed = config(tiny_llava, records, tmp_path / "resumed", **shape, save_steps=save_steps)
    (records.parent / "4.png").rename(records.parent / "moved.png")
    (records.parent / "4.png").write_bytes(b"torn")  # a direct label: in the fourth step
    with pytest.raises(pt.errors.RecordError, match="record 'r4'"):
        finetune(resumed)
    (records.parent / "moved.png").replace(records.parent / "4.png")
    finetune(resumed)
    assert losses(tmp_path / "resumed") == whole


def test_a_released_file_is_read_in_its_order(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    """`train_depth_annealing_data.json` of AURORA: LLaVA's form, repeated ids, direct labels first."""
    records = write_some_records(tmp_path / "data", codec, 6, regimes=("atomic", "atomic", "direct", "cot"))
    entries = [record.to_llava(lossless=False) for record in pt.data.read_records(records)]
    order = [0, 1, 2, 3, 1, 0, 2, 3, 2, 3]
    path = tmp_path / "data" / "train_depth_annealing_data.json"
    path.write_text(json.dumps([entries[number] for number in order]))
    settings = config(
        tiny_llava, path, tmp_path / "run", curriculum={"kind": "sequential"}, max_steps=-1, effective_batch_size=4
    )
    run = prepare_run(settings)
    drawn = [run.samples[index] for step in run.curriculum for index in step]
    assert [sample.id for sample in drawn] == [f"r{number}" for number in [*order, *order[:2]]]
    assert [sample.group for sample in drawn[:4]] == ["depth/atomic", "depth/atomic", "depth/direct", "depth/cot"]
    assert finetune(settings).steps == 3
