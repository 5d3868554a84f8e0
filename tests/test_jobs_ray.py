"""The Ray engine: results in order, errors of ours unchanged, and killed workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from perceptok.errors import ConfigError, EngineError, MalformedBlockError
from perceptok.jobs import RayEngine

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Squares:
    """Squares numbers; the first worker that gets 30 kills itself."""

    def __init__(self, flag: str) -> None:
        self.flag = Path(flag)

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 30 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item, os.getpid()


def test_results_are_in_order_with_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    results = list(RayEngine(2).map(Squares(str(tmp_path / "killed")), range(60)))
    assert (tmp_path / "killed").exists()
    assert [square for square, _ in results] == [number * number for number in range(60)]
    assert len({process for _, process in results} - {os.getpid()}) >= 2


def test_items_are_drawn_by_the_window_and_our_errors_keep_their_class() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    def work(number: int) -> int:
        if number == 7:
            raise MalformedBlockError(f"number {number} is not a block")
        return -number

    results = RayEngine(2, window=10).map(work, items())
    assert next(results) == 0
    assert len(drawn) == 10
    with pytest.raises(MalformedBlockError, match="number 7"):
        list(results)


def test_other_errors_name_their_class() -> None:
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        list(RayEngine(1).map(lambda number: 1 // number, [0]))


def test_no_items_give_no_results() -> None:
    assert list(RayEngine(1).map(str, [])) == []


@pytest.mark.parametrize("settings", [{"workers": 0}, {"gpus": -1.0}, {"window": 0}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Ray engine needs"):
        RayEngine(**settings)  # type: ignore[arg-type]
