"""Pages of records: one HTML file that shows images, markers, boxes, decoded depth, questions and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perceptok.data.record_files import compute_statistics, find_records_file, read_records
from perceptok.data.records import PerceptionRecord, format_conversation
from perceptok.data.supervision import find_supervision_problems
from perceptok.depth import DepthCodec
from perceptok.files import read_input
from perceptok.pages import Case, Table, write_page
from perceptok.tokens import DEPTH_GRID

__all__ = ["write_records_page"]


def write_records_page(
    records: str | Path, output: str | Path, *, count: int = 48, codec: DepthCodec | None = None, force: bool = False
) -> int:
    """Write a page of records that are spread evenly over a file.

    The images are those of the records, with the markers that are drawn on them: what a model sees. Boxes are a layer
    over them that can be switched off. What is wrong with a record's answer (`find_supervision_problems`) stands beside
    it.

    Args:
        records: A file of records, or a folder that `build_data` made.
        output: The HTML file.
        count: Number of records; all of them where the file has fewer.
        codec: Decodes the records' codes; default: the weights that come with perceptok. Codes of another codec are
            shown without their map.
        force: Replace an existing file.

    Returns:
        The number of records on the page.

    Raises:
        RecordError: The records cannot be read.
        OutputError: The file exists or cannot be written.
    """
    source = find_records_file(records)
    codec = codec or DepthCodec.from_pretrained()
    statistics = compute_statistics(read_records(source))
    total = statistics.records
    shown = {number * total // min(count, total) for number in range(min(count, total))}
    chosen = (record for index, record in enumerate(read_records(source)) if index in shown)
    rows = [[task, regime, str(number)] for (task, regime), number in sorted(statistics.kinds.items())]
    return write_page(
        output,
        (_make_case(record, source.parent, codec) for record in chosen),
        title=f"Records of {source.parent.name or source.name}",
        tables=[Table(f"{statistics.records} records", ("task", "regime", "records"), rows)],
        note=f"{_describe_selection(len(shown), total)}; depth maps are decoded from the records' codes.",
        force=force,
    )


def _read_image(folder: Path, record: PerceptionRecord) -> bytes | None:
    """The bytes of a record's first image; None where it has none, or it cannot be read."""
    if not record.images:
        return None
    try:
        return read_input(folder / record.images[0])
    except (OSError, ValueError):
        return None


def _describe_selection(shown: int, total: int) -> str:
    return f"All {total} records" if shown == total else f"{shown} of {total} records, spread evenly"


def _make_case(record: PerceptionRecord, folder: Path, codec: DepthCodec) -> Case:
    evidence, codes, depth = record.evidence, record.evidence.codes, None
    if codes is not None and evidence.codec in (None, codec.fingerprint):
        depth = codec.decode(np.array(codes).reshape(DEPTH_GRID))[0]
    return Case(
        record.id,
        image=_read_image(folder, record),
        text=record.turns[-1].text if record.turns[-1].role == "assistant" else "",
        prompt=format_conversation(record.history, record.question),
        markers=[(marker.letter, marker.x, marker.y) for marker in evidence.markers],
        markers_in_image=True,
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
            "problems": "; ".join(find_supervision_problems(record)) or None,
        },
    )
