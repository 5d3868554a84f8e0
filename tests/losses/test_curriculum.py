"""Eqs. 3 and 4, the direction of the curriculum, and the released recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from perceptok.errors import LossError
from perceptok.losses import LinearSchedule, TemperatureSchedule, curriculum_probabilities, curriculum_temperature

difficulties = st.lists(st.floats(-50, 50), min_size=2, max_size=6)


@given(difficulties, st.floats(0.1, 100))
def test_eq_3(values: list[float], temperature: float) -> None:
    shares = curriculum_probabilities(values, temperature)
    # Eq. 3 as printed; math.exp overflows where ours must not.
    if max(abs(value) / temperature for value in values) < 500:
        weights = [math.exp(-value / temperature) for value in values]
        assert shares == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-9, abs=1e-12)
    assert shares.sum() == pytest.approx(1)


def test_eq_4() -> None:
    assert curriculum_temperature(0, 10, 2.0, 3.0) == 2.0
    assert curriculum_temperature(5, 10, 2.0, 3.0) == 2.0 / 2.5
    assert curriculum_temperature(10, 10, 2.0, 3.0) == 0.5
    assert curriculum_temperature(10, 10, 2.0, -0.5) == 4.0
    assert curriculum_temperature(7, 10, 2.0, 0.0) == 2.0


@given(difficulties, st.floats(0.1, 10), st.floats(0.1, 20))
def test_a_falling_temperature_sharpens_on_the_easiest_task(values: list[float], tau0: float, lam: float) -> None:
    """Eqs. 3 and 4 with tau falling: the share of the smallest d never falls, that of the largest never rises."""
    temperatures = [curriculum_temperature(step, 8, tau0, lam) for step in range(9)]
    assert (np.diff(temperatures) < 0).all()
    shares = np.array([curriculum_probabilities(values, temperature) for temperature in temperatures])
    easiest, hardest = int(np.argmin(values)), int(np.argmax(values))
    assert (np.diff(shares[:, easiest]) >= -1e-12).all()
    assert (np.diff(shares[:, hardest]) <= 1e-12).all()


def test_a_falling_temperature_ends_without_reasoning() -> None:
    falling = TemperatureSchedule({"atomic": 0, "cot": 1, "direct": 2}, tau0=2.0, lam=19.0)
    first, last = falling.probabilities(0, 100), falling.probabilities(100, 100)
    assert first[0] < 0.51
    assert last[0] > 0.9999
    assert last[1:].sum() < first[1:].sum()


@given(difficulties, st.floats(0.1, 10), st.floats(-0.99, -0.1))
def test_a_rising_temperature_goes_from_easy_to_mixed(values: list[float], tau0: float, lam: float) -> None:
    shares = np.array(
        [
            TemperatureSchedule(dict(zip("abcdef", values, strict=False)), tau0, lam).probabilities(step, 8)
            for step in range(9)
        ]
    )
    easiest = int(np.argmin(values))
    assert (np.diff(shares[:, easiest]) <= 1e-12).all()
    # It only spreads: at every step an easier task is at least as frequent as a harder one.
    order = np.argsort(values, kind="stable")
    assert (np.diff(shares[:, order], axis=1) <= 1e-12).all()


def test_the_default_is_atomic_first_and_reasoning_later() -> None:
    schedule = TemperatureSchedule({"atomic": 0, "cot": 1, "direct": 1})
    first, last = schedule.probabilities(0, 1000), schedule.probabilities(1000, 1000)
    assert first[0] == pytest.approx(0.987, abs=5e-4)
    assert last[0] == pytest.approx(0.39, abs=5e-3)
    assert schedule.tasks == ("atomic", "cot", "direct")


def test_released_recipe() -> None:
    schedule = LinearSchedule()
    total = 200
    shares = np.array([schedule.probabilities(step, total) for step in range(total)])
    assert shares.sum(axis=1) == pytest.approx(np.ones(total))
    assert shares[::20, 0] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert np.array_equal(shares, np.repeat(shares[::20], 20, axis=0))
    assert np.array_equal(shares[:, 1], shares[:, 2])
    depth_and_boxes = LinearSchedule(("depth", "boxes"), {"cot": 3.0, "direct": 1.0}, first=0.8, last=0.2, passes=2)
    assert depth_and_boxes.probabilities(0, 10) == pytest.approx([0.4, 0.4, 0.15, 0.05])
    assert depth_and_boxes.probabilities(9, 10) == pytest.approx([0.1, 0.1, 0.6, 0.2])


def test_bad_input_is_refused() -> None:
    for temperature in (0, -1, math.nan, math.inf):
        with pytest.raises(LossError, match="tau must be positive and finite"):
            curriculum_probabilities([1, 2], temperature)
    for empty in ([], [[1.0, 2.0]], 3.0):
        with pytest.raises(LossError, match="a list of at least one number"):
            curriculum_probabilities(empty, 1)
    with pytest.raises(LossError, match="difficulties must be finite; got nan"):
        curriculum_probabilities([1, math.nan], 1)
    for step, total in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(LossError, match="0 <= step <= total_steps"):
            curriculum_temperature(step, total, 1, 0)
        with pytest.raises(LossError, match="0 <= step <= total_steps"):
            LinearSchedule().probabilities(step, total)
    for tau0 in (0, -2, math.nan):
        with pytest.raises(LossError, match="tau0 must be positive"):
            curriculum_temperature(0, 10, tau0, 0)
    for lam in (-1, -2, math.nan):
        with pytest.raises(LossError, match="lam must be above -1"):
            curriculum_temperature(0, 10, 1, lam)
    with pytest.raises(LossError, match="at least one task"):
        TemperatureSchedule({})
    with pytest.raises(LossError, match="tau0 must be positive"):
        TemperatureSchedule({"a": 1}, tau0=0)
    with pytest.raises(LossError, match="lam must be above -1"):
        TemperatureSchedule({"a": 1}, lam=-1)
    with pytest.raises(LossError, match="at least one task"):
        LinearSchedule(())
    with pytest.raises(LossError, match="named twice: a, a"):
        LinearSchedule(("a",), {"a": 1.0})
    with pytest.raises(LossError, match=r"first must be a share in 0\.\.1; got 1\.5"):
        LinearSchedule(first=1.5)
    with pytest.raises(LossError, match="passes must be at least 1"):
        LinearSchedule(passes=0)
    with pytest.raises(LossError, match="weights must be positive"):
        LinearSchedule(others={"cot": 0.0})
    with pytest.raises(LossError, match="name the others"):
        LinearSchedule(others={})
