"""Writes the table and the learning curves of finished experiments.

python examples/reading/report.py reading-results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_text import EXPERIMENTS, read_results

from perceptok.evaluation import compute_interval
from perceptok.files import atomic_write

HEADER = (
    "lessons",
    "seeds",
    "updates until 90 %",
    "conclusions that follow",
    "2 / 3 / 4 / 5 points",
    "evidence right",
)
COUNT_HEADER = ("list", "seeds", "updates until 90 %", "conclusions that follow", "5 / 10 / 15 boxes")


def spell_share(right: int, items: int) -> str:
    """A share in percent with Wilson's 95 % interval."""
    if not items:
        return "-"
    low, high = compute_interval(right, items)
    return f"{right / items:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def spell_updates(results: Sequence[dict[str, Any]]) -> str:
    """Updates until 90 % of each seed, or that the budget was not enough."""
    return ", ".join(str(result["reached"]) if result["reached"] else f"> {result['updates']}" for result in results)


def make_row(name: str, results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The row of an experiment: its seeds' conclusions together."""
    finals = [result["final"] for result in results]
    items, follow = (sum(final[key] for final in finals) for key in ("items", "follow"))
    groups: dict[int, list[int]] = {}
    for final in finals:
        for size, (count, right) in final["groups"].items():
            sums = groups.setdefault(int(size), [0, 0])
            sums[0] += count
            sums[1] += right
    parts = " / ".join(f"{right / count:.0%}" for _, (count, right) in sorted(groups.items()))
    row = (name, str(len(results)), spell_updates(results), spell_share(follow, items), parts)
    if results[0]["setting"]["task"] == "counting":
        return row
    values, right_values = (sum(final["evidence"][index] for final in finals) for index in (0, 1))
    return (*row, f"{right_values / values:.0%}" if values else "-")


def write_table(results: Sequence[dict[str, Any]], task: str) -> str:
    """The Markdown table of the experiments of a task, in the order of the queue."""
    header = COUNT_HEADER if task == "counting" else HEADER
    lines = [header, ("---",) * len(header)]
    for name in EXPERIMENTS:
        chosen = [result for result in results if result["name"] == name and result["setting"]["task"] == task]
        if chosen:
            lines.append(make_row(name.removeprefix("counting: "), chosen))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot_curves(results: Sequence[dict[str, Any]], path: Path, groups: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Draw the share of conclusions that follow over updates, one panel for each group of experiments."""
    from matplotlib.figure import Figure

    columns = 3
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (title, names) in zip(panels, groups, strict=False):
        for name in names:
            for number, result in enumerate(chosen for chosen in results if chosen["name"] == name):
                steps, shares = zip(*([0, 0.0], *result["curve"]), strict=True)
                label = name.partition(": ")[2] or name
                panel.plot(steps[1:], shares[1:], color=f"C{names.index(name)}", label=None if number else label)
        panel.axhline(0.9, color="0.7", lw=0.8)
        panel.set(title=title, ylim=(0, 1), xlabel="updates")
        panel.legend(fontsize=7)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    with atomic_write(path, force=True) as file:
        figure.savefig(file, format="png", dpi=110)


GROUPS = (
    ("evidence", ("default", "evidence: none", "evidence: code", "evidence: digits", "evidence: bins")),
    ("naming of points", ("default", "naming: cell", "naming: pixel", "naming: xy", "naming: none")),
    (
        "block and order",
        (
            "default",
            "block: keyed",
            "order: question after the block",
            "order: the same, not restated",
            "order: question before the block",
            "AURORA's texts",
        ),
    ),
    (
        "initialization and ids",
        ("default", "init: normal", "init: mean", "init: ordinal", "init: ordinal, ids sorted"),
    ),
    (
        "loss",
        (
            "default",
            "conclusion 5",
            "conclusion 20",
            "block in the loss",
            "block in the loss, conclusion 5",
            "block in the loss, conclusion 20",
            "Eq. 1 in place of cross entropy",
            "Eq. 1 beside cross entropy",
        ),
    ),
    ("layers", ("layers: 1", "default", "layers: 4", "layers: 8", "random weights", "small")),
    ("counting", tuple(name for name in EXPERIMENTS if name.startswith("counting: "))),
)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, write `table.md` and `curves.png` into the folder of the results, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="The folder that run_text.py writes.")
    folder = parser.parse_args(arguments).results
    results = read_results(folder)
    if not results:
        raise SystemExit(f"{folder}: no experiment is finished; run_text.py writes results.jsonl there")
    tables = [write_table(results, task) for task in ("points", "counting")]
    text = "\n".join(table for table in tables if table.count("\n") > 2)
    with atomic_write(folder / "table.md", force=True) as file:
        file.write(text.encode())
    plot_curves(results, folder / "curves.png", GROUPS)
    print(text)
    seconds = sum(float(str(result["seconds"])) for result in results)
    print(f"{len(results)} runs, {seconds:.0f} processor seconds; curves in {folder / 'curves.png'}")


if __name__ == "__main__":
    main()
