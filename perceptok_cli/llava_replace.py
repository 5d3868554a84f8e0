"""`perceptok llava replace`: does a model's answer depend on the depth block that it wrote?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from perceptok.errors import OutputError
from perceptok_cli.console import note, print_table, progress_bar

__all__ = ["replace"]


def replace(
    model: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    records: Annotated[Path, typer.Argument(help="Records of the depth task with answers (.jsonl, .json, .parquet).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for table, answers and page.")],
    kinds: Annotated[
        str,
        typer.Option("--kinds", help="Which blocks to put there."),
    ] = "own,oracle,random,constant,other,shuffled,none",
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, if not beside the records.")
    ] = None,
    regime: Annotated[str, typer.Option("--regime", help="Of the records: cot or direct.")] = "cot",
    most: Annotated[int | None, typer.Option("--most", min=1, help="At most so many records.")] = None,
    max_answer_tokens: Annotated[int, typer.Option("--max-answer-tokens", min=1, help="Of what follows a block.")] = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random and shuffled blocks.")] = 0,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """The token replacement test (arXiv 2605.21642): accuracy with the model's own block, the teacher's, and others.

    An interrupted run is continued by the same command.
    """
    if (output / "replacement.json").exists() and not force:
        raise OutputError(f"{output / 'replacement.json'} exists already; replace it with --force")
    from perceptok.data.records import read_records
    from perceptok.errors import EvaluationError
    from perceptok.evaluation.replaced import REPLACEMENT_HEADER, replacement_rows, write_replacement
    from perceptok.evaluation.replacement import replacement_test
    from perceptok.llava.folders.benchmarks import model_stamp
    from perceptok.llava.pipeline import PerceptionPipeline

    chosen = [one for one in read_records(records) if one.task == "depth" and one.regime == regime][:most]
    if not chosen:
        raise EvaluationError(f"{records} has no records of the depth task in the regime {regime}")
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=device)
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "answers.jsonl"
    wanted = cast(Any, [one.strip() for one in kinds.split(",")])
    with progress_bar("replacing", len(chosen)) as advance:
        told = replacement_test(
            pipe,
            chosen,
            wanted,
            folder=images or records.parent,
            max_answer_tokens=max_answer_tokens,
            batch_size=batch_size,
            seed=seed,
            output=kept,
            model=model_stamp(model),
            advance=advance,
        )
    print_table(f"{model.name}: another block in its place", REPLACEMENT_HEADER, replacement_rows(told))
    if told.skipped:
        note(f"{len(told.skipped)} of {len(chosen)} answers hold no whole block, or several, and are left out")
    write_replacement(told, output, system=model.name, codec=pipe.codec, force=True)
    kept.with_name(kept.name + ".partial").unlink(missing_ok=True)
    note(f"table, answers and page in {output}")
