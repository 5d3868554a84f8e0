"""`perceptok llava ablate`: a grid of runs, each without one part of the method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perceptok.errors import ConfigError
from perceptok_cli.console import note, print_table

__all__ = ["ablate"]


def ablate(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (YAML or JSON); see --choices.")] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Print the choices that come with perceptok.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
) -> None:
    """Train and ask every cell of a grid; data, base and trainings that cells share are made once.

    An interrupted grid is continued by the same command; finished cells are not run again.
    """
    from perceptok.llava.ablation.recipe import AblationRecipe, shipped_cells

    if choices:
        print_table("Choices", ("cell", "what it changes"), [(one.name, one.means) for one in shipped_cells().values()])
        return
    if recipe is None:
        raise ConfigError("ablate needs a recipe; --choices prints what its cells may be")
    grid = AblationRecipe.read(recipe)
    if plan:
        rows = [
            (cell.name, grid.building(cell, grid.data).fingerprint, ", ".join(one.name for one in grid.tests_of(cell)))
            for cell in grid.chosen
        ]
        print_table("Cells", ("cell", "data", "tests"), rows)
        return
    from perceptok.llava.ablation.running import run_ablation
    from perceptok.llava.ablation.table import ABLATION_HEADER, ablation_rows, write_ablation

    results = run_ablation(grid, note)
    print_table("Ablation", ABLATION_HEADER, ablation_rows(results))
    output = grid.place(grid.output)
    write_ablation(results, output)
    note(f"table and page in {output}")
