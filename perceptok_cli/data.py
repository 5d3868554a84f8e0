"""`perceptok data`: images and annotations become records that train and test a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perceptok_cli.console import finish, note, print_table, progress_bar

if TYPE_CHECKING:
    from perceptok.data import PerceptionRecord
    from perceptok.depth import DepthCodec
    from perceptok.pages import Case

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Images and annotations become records that train and test a model.")

Records = Annotated[
    Path, typer.Argument(help="A file of records (.jsonl, .json, .parquet), or a folder that was built.")
]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="A recipe, YAML or JSON; its paths are relative to it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for records, images and manifest.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; the output does not depend on it. Default: 1; of Ray 2.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or of a Ray cluster (extra ray).")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray: the cluster's address; default: RAY_ADDRESS, or this machine.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a data set that is there.")] = False,
) -> None:
    """Build a data set. A run that was killed is continued by the same command, to the same bytes."""
    from perceptok.data import DataRecipe, build_data
    from perceptok.errors import ConfigError
    from perceptok.jobs import LocalEngine, RayEngine

    if address is not None and engine != "ray":
        raise ConfigError(f"--address {address} is of a Ray cluster; say --engine ray too, or leave it out")
    chosen = DataRecipe.read(recipe)
    with progress_bar("building", sum(config.count for config in chosen.sets)) as advance:

        def report(added: int) -> None:
            for _ in range(added):
                advance()

        with RayEngine(workers or 2, address) if engine == "ray" else LocalEngine(workers or 1) as spread:
            built = build_data(chosen, output, engine=spread, force=force, advance=report)
    rows = [
        [config.name, str(config.records), str(config.candidates), str(config.candidates - config.records)]
        for config in built.sets
    ]
    print_table(f"{built.records} records in {output}", ("set", "records", "images looked at", "rejected"), rows)
    for config in built.sets:
        for reason, count in sorted(config.rejected.items(), key=lambda item: -item[1]):
            note(f"  {config.name}: {count} rejected: {reason}")


@app.command()
def stats(
    records: Records,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the counts as JSON too.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
) -> None:
    """Count tasks, regimes, answers, markers, codes; and, of a built folder, what was rejected and why."""
    from perceptok.data import compute_statistics, read_records
    from perceptok.errors import RecordError
    from perceptok.files import atomic_write, parse_json

    found = compute_statistics(read_records(_file_of(records)))
    rows = [[task, regime, str(count)] for (task, regime), count in sorted(found.kinds.items())]
    print_table(f"{found.records} records", ("task", "regime", "records"), rows)
    for task, counts in sorted(found.answers.items()):
        ordered = sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))
        total = sum(counts.values())
        print_table(
            f"answers: {task}", ("answer", "records", "share"), [[a, str(n), f"{n / total:.1%}"] for a, n in ordered]
        )
    if found.markers:
        print_table(
            "markers an image", ("markers", "images"), [[str(n), str(c)] for n, c in sorted(found.markers.items())]
        )
        print_table(
            "where markers lie (quarters of the frame)",
            ("rows", "0-1/4", "1/4-1/2", "1/2-3/4", "3/4-1"),
            [[f"{row}/4", *map(str, counts)] for row, counts in enumerate(found.positions, 1)],
        )
    if found.codes_used:
        note(f"depth codes used: {found.codes_used} of {len(found.codes)}")
    manifest = records / "manifest.json"
    if records.is_dir() and manifest.is_file():
        told = parse_json(manifest.read_bytes(), str(manifest), RecordError)
        print_table("rejected", ("set", "images", "reason"), _rejections(told))
    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(found.to_dict(), indent=2) + "\n").encode())


@app.command()
def check(
    records: Records,
    images: Annotated[bool, typer.Option(help="Look for the images too.")] = True,
) -> None:
    """Say everything that is wrong with a file of records: damaged ones, ids that stand twice, images missing."""
    from perceptok.data import check_records

    problems = list(check_records(_file_of(records), images=images))
    finish([(problem.name, problem.reason) for problem in problems], len(problems))
    note("nothing is wrong")


def _rejections(manifest: object) -> Sequence[Sequence[str]]:
    sets = manifest.get("sets", []) if isinstance(manifest, dict) else []
    return [
        [str(config["name"]), str(count), str(reason)]
        for config in sets
        for reason, count in sorted(config["rejected"].items(), key=lambda item: -item[1])
    ]


def _file_of(records: Path) -> Path:
    return records / "records.jsonl" if records.is_dir() else records


@app.command()
def show(
    records: Records,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    count: Annotated[int, typer.Option(min=1, help="How many records, spread evenly over the file.")] = 48,
    codec: Annotated[str | None, typer.Option(help="A codec's folder; by default the weights of the package.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Show records on one page: image, markers, boxes, decoded depth, question and answer."""
    from perceptok.data import compute_statistics, read_records
    from perceptok.depth import DepthCodec
    from perceptok.pages import Table, write_page

    source = _file_of(records)
    found = compute_statistics(read_records(source))
    step = max(1, -(-found.records // count))
    chosen = (one for number, one in enumerate(read_records(source)) if number % step == 0)
    loaded = DepthCodec.from_pretrained(codec)
    rows = [[task, regime, str(number)] for (task, regime), number in sorted(found.kinds.items())]
    shown = write_page(
        output,
        (_case(record, source.parent, loaded) for record in chosen),
        title=f"Records of {source.parent.name or source.name}",
        tables=[Table(f"{found.records} records", ("task", "regime", "records"), rows)],
        note=f"Every {step}. of {found.records} records; maps are what the codec makes of their tokens.",
        force=force,
    )
    note(f"{shown} records in {output}")


def _case(record: PerceptionRecord, folder: Path, codec: DepthCodec) -> Case:
    from perceptok.pages import Case

    evidence, codes, depth = record.evidence, record.evidence.codes, None
    if codes is not None and evidence.codec in (None, codec.fingerprint):
        depth = codec.decode([list(codes[at : at + 10]) for at in range(0, len(codes), 10)])[0]
    image = folder / record.images[0] if record.images else None
    return Case(
        record.id,
        image=image.read_bytes() if image is not None and image.is_file() else None,
        text=record.turns[-1].text,
        prompt=record.turns[0].text,
        markers=[(marker.letter, marker.x, marker.y) for marker in evidence.markers],
        boxes=evidence.boxes or (),
        frame=None if record.frame is None else (record.frame.size, record.frame.size),
        codes=codes,
        depth=depth,
        facts={
            "task": record.task,
            "regime": record.regime,
            "answer": record.answer,
            "difficulty": record.difficulty,
            "source": str(record.provenance.get("image", "")),
        },
    )
