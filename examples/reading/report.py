"""Writes the table and the learning curves of finished experiments.

python examples/reading/report.py reading-results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_text import EXPERIMENTS, GROUPS, read_results

from perceptok.evaluation import compute_interval
from perceptok.files import atomic_write

HEADER = (
    "lessons",
    "updates until 90 %",
    "conclusions that follow",
    "each seed",
    "2 / 3 / 4 / 5 points",
    "evidence right",
    "conclusion, given true evidence",
)
COUNT_HEADER = ("list", "updates until 90 %", "conclusions that follow", "each seed", "5 / 10 / 15 boxes")


def spell_share(right: int, items: int) -> str:
    """A share in percent with Wilson's 95 % interval."""
    if not items:
        return "-"
    low, high = compute_interval(right, items)
    return f"{right / items:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def spell_updates(results: Sequence[dict[str, Any]]) -> str:
    """Updates until 90 % of each seed, or that the budget was not enough."""
    spelled = [str(result["reached"]) if result["reached"] else f"> {result['updates']}" for result in results]
    return spelled[0] if len(set(spelled)) == 1 else ", ".join(spelled)


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
    seeds = ", ".join(f"{final['follow'] / final['items']:.0%}" for final in finals)
    row = (name, spell_updates(results), spell_share(follow, items), seeds, parts)
    if results[0]["setting"]["task"] == "counting":
        return row
    values, right_values = (sum(final["evidence"][index] for final in finals) for index in (0, 1))
    given = sum(final["given_evidence"] for final in finals) / items
    return (*row, f"{right_values / values:.0%}" if values else "-", f"{given:.0%}")


def write_table(results: Sequence[dict[str, Any]], task: str) -> str:
    """The Markdown table of the experiments of a task, in the order of the queue."""
    header = COUNT_HEADER if task == "counting" else HEADER
    lines = [header, ("---",) * len(header)]
    for name in EXPERIMENTS:
        chosen = [result for result in results if result["name"] == name and result["setting"]["task"] == task]
        if chosen:
            lines.append(make_row(name.removeprefix("counting: "), chosen))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the share of conclusions that follow over updates, one panel for each group of experiments."""
    from matplotlib.figure import Figure

    finished = {result["name"] for result in results}
    panels_by_group = {
        title: [name for name in (*(["default"] if title != "counting" else []), *group) if name in finished]
        for title, group in GROUPS.items()
    }
    columns = 3
    rows = -(-len(GROUPS) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for panel, (title, names) in zip(figure.subplots(rows, columns).ravel(), panels_by_group.items(), strict=True):
        for place, name in enumerate(names):
            for number, result in enumerate(chosen for chosen in results if chosen["name"] == name):
                steps, shares = zip(*result["curve"], strict=True)
                label = None if number else name.removeprefix("counting: ")
                panel.plot(steps, shares, color=f"C{place}", label=label)
        panel.axhline(0.9, color="0.7", lw=0.8)
        panel.set(title=title, ylim=(0, 1), xlabel="updates")
        if names:
            panel.legend(fontsize=7)
    with atomic_write(path, force=True) as file:
        figure.savefig(file, format="png", dpi=110)


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
    plot_curves(results, folder / "curves.png")
    print(text)
    seconds = sum(float(str(result["seconds"])) for result in results)
    print(f"{len(results)} runs, {seconds:.0f} processor seconds; curves in {folder / 'curves.png'}")


if __name__ == "__main__":
    main()
