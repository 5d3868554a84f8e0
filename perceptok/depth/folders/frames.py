"""Frames of clips, restored from records that carry what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from perceptok.depth.folders.records import DepthRecord, Failure
from perceptok.errors import MalformedBlockError

__all__ = ["whole_records"]


def whole_records(records: Iterable[DepthRecord], failures: list[Failure] | None = None) -> Iterator[DepthRecord]:
    """Records with all 100 codes, from frames that carry changes only; other records pass as they are.

    Args:
        records: As `read_records` gives them; frames of several clips may alternate.
        failures: Takes the frames that cannot be restored, as one before them is missing or damaged, and frames that
            stand twice; without it the first one raises. A frame in which all cells changed begins anew.

    Raises:
        MalformedBlockError: A frame cannot be restored, without `failures`.
    """
    last: dict[str, _State] = {}
    for record in records:
        if record.frame is None or record.changed is None:
            yield record
            continue
        state = last.get(record.clip, _State(-1, None))
        problem = None
        if record.frame <= state.frame:
            problem = (
                f"frame {record.frame} of clip {record.clip!r} stands after frame {state.frame}: a second time, or "
                "out of order"
            )
        elif len(record.changed) == 100:
            last[record.clip] = _State(record.frame, np.array(record.codes, np.int64))
        elif record.frame > state.frame + 1 or state.codes is None:
            missing = state.missing if state.codes is None and state.frame >= 0 else state.frame + 1
            last[record.clip] = _State(record.frame, None, missing)
            problem = (
                f"frame {record.frame} of clip {record.clip!r} cannot be restored: frame {missing} is missing or "
                "damaged, and what changed there is not known; take the records as they were written, or encode the "
                "clip again"
            )
        else:
            codes = state.codes.copy()
            codes[list(record.changed)] = record.codes
            last[record.clip] = _State(record.frame, codes)
        if problem is None:
            whole = last[record.clip].codes
            assert whole is not None
            yield replace(record, codes=tuple(whole.tolist()), changed=tuple(range(100)))
        elif failures is None:
            raise MalformedBlockError(f"{record.name}: {problem}")
        else:
            failures.append(Failure(record.name, problem))


class _State(NamedTuple):
    """A clip's last frame, its codes where they are known, and the first frame that is missing where they are not."""

    frame: int
    codes: np.ndarray | None
    missing: int = 0
