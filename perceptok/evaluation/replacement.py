"""The token replacement test: does the answer depend on what the depth block says?

After "Ablate-to-Validate" (arXiv 2605.21642): the block that a model wrote is replaced, and the model goes on from
there. A model that answers as well from a random block does not use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from perceptok.data.records.record import PerceptionRecord
from perceptok.depth.blocks import block_to_text
from perceptok.errors import EvaluationError
from perceptok.evaluation.answers import read_answer
from perceptok.evaluation.benchmarks.items import Item
from perceptok.evaluation.benchmarks.scoring import Outcome, Score, accuracy
from perceptok.evaluation.continuing import Cut, Pipeline, continue_after
from perceptok.evaluation.written import read_written
from perceptok.files.journal import Journal, stamp_of
from perceptok.tokens import DEPTH, DEPTH_GRID

__all__ = ["KINDS", "Kind", "Replacement", "replacement_test"]

Kind = Literal["own", "oracle", "random", "constant", "other", "shuffled", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


@dataclass(frozen=True)
class Replacement:
    """What became of the answers.

    Attributes:
        scores: Kind of block -> accuracy.
        changed: Kind of block -> share of items whose answer is another than with the own block.
        outcomes: Kind of block -> item by item.
        skipped: Ids of records for which the model wrote no whole block, or several; in no score.
    """

    scores: Mapping[Kind, Score]
    changed: Mapping[Kind, float]
    outcomes: Mapping[Kind, tuple[Outcome, ...]]
    skipped: tuple[str, ...]


def replacement_test(
    pipe: Pipeline,
    records: Sequence[PerceptionRecord],
    kinds: Sequence[Kind] = ("own", "oracle", "random", "constant", "shuffled", "none"),
    *,
    folder: str | Path = ".",
    max_answer_tokens: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    output: str | Path | None = None,
    model: Any = "",
    advance: Callable[[], object] = lambda: None,
) -> Replacement:
    """Accuracy with the own block and with others in its place.

    The model answers each question; at its block the text is cut, another block is put there, and the model goes on,
    greedily and without further perception tokens. All kinds of `batch_size` questions are one batch, which shares the
    cache of picture, question and text before the block, so that these are computed once.

    Kinds: "own" as written; "oracle" the record's; "random" codes drawn evenly; "constant" the code that the records'
    blocks hold most often, 100 times; "other" that of the next record with another block; "shuffled" the own codes in
    another order; "none" nothing at all.

    Args:
        pipe: The model.
        records: Of the depth task, with answer, choices and the codes of the teacher's map.
        kinds: Which blocks to try.
        folder: That the records' images are relative to.
        max_answer_tokens: Of what follows the block.
        batch_size: Questions at once.
        seed: Of random and shuffled blocks.
        output: A file beside which answers are kept as they come (`OUTPUT.partial`): a run that was stopped goes on
            from there. It is the caller's to remove once its own outputs are written.
        model: What tells this model from another, as JSON types; answers of another one are refused.
        advance: Called after every record.

    Raises:
        EvaluationError: An unknown kind, records without answer, choices or codes, or no block in any answer.
        OutputError: The kept answers are another run's.
    """
    tried = list(dict.fromkeys(kinds))
    if not tried or set(tried) - set(KINDS):
        raise EvaluationError(f"kinds are {', '.join(KINDS)}; got {', '.join(map(str, kinds)) or 'none'}")
    if batch_size < 1 or max_answer_tokens < 1:
        raise EvaluationError("batch_size and max_answer_tokens are at least 1")
    teachers = [_teacher(record) for record in records]
    if not teachers:
        raise EvaluationError("there are no records; name a file with records of the depth task")
    images = [Path(folder) / record.images[0] for record in records]
    told: dict[int, dict[str, Any]] = {}
    with ExitStack() as held:
        journal = None
        if output is not None:
            asked = [[one.id, _question(one), one.answer, list(one.evidence.codes or ())] for one in records]
            run = {"model": model, "kinds": tried, "seed": seed, "budget": max_answer_tokens, "records": asked}
            journal = held.enter_context(Journal(Path(output), run, [stamp_of(image) for image in images]))
            told = dict(journal.results)
        for _ in told:
            advance()
        todo = [number for number in range(len(records)) if number not in told]
        for start in range(0, len(todo), batch_size):
            some = todo[start : start + batch_size]
            found = _asked(pipe, records, images, teachers, tried, some, max_answer_tokens, seed)
            for number, one in zip(some, found, strict=True):
                told[number] = one
                if journal is not None:
                    journal.add(number, one)
                advance()
    return _summed(records, images, tried, told, seed)


def _asked(
    pipe: Pipeline,
    records: Sequence[PerceptionRecord],
    images: Sequence[Path],
    teachers: Sequence[np.ndarray],
    kinds: Sequence[Kind],
    numbers: Sequence[int],
    budget: int,
    seed: int,
) -> list[dict[str, Any]]:
    """For each record its own text, and the text with each kind of block in its place; {} where there is no block."""
    answers = pipe(
        [images[number] for number in numbers],
        [_question(records[number]) for number in numbers],
        force_block="somewhere",
        batch_size=len(numbers),
    )
    common = Counter(code for codes in teachers for code in codes.ravel().tolist()).most_common(1)[0][0]
    cuts: dict[int, Cut] = {}
    for number, answer in zip(numbers, answers, strict=True):
        written = str(answer.text)
        own = read_written(written).block
        if own is not None:
            blocks = _blocks(number, own, teachers, common, seed)
            before = written[: written.index(DEPTH.start)]
            cuts[number] = Cut(
                images[number], _question(records[number]), before, tuple(blocks[kind] for kind in kinds)
            )
    tails = dict(zip(cuts, continue_after(pipe, list(cuts.values()), budget), strict=True))
    found: list[dict[str, Any]] = []
    for number in numbers:
        if number not in cuts:
            found.append({})
            continue
        cut = cuts[number]
        pieces = ["" if block is None else block_to_text(block) for block in cut.blocks]
        found.append({"before": cut.before, "blocks": pieces, "tails": tails[number]})
    return found


def _blocks(
    number: int, own: np.ndarray, teachers: Sequence[np.ndarray], common: int, seed: int
) -> dict[Kind, np.ndarray | None]:
    rng = np.random.default_rng([seed, number])
    others = (teachers[(number + step) % len(teachers)] for step in range(1, len(teachers)))
    other = next((one for one in others if not np.array_equal(one, teachers[number])), None)
    if other is None:
        other = teachers[number]
    return {
        "own": own,
        "oracle": teachers[number],
        "random": rng.integers(DEPTH.size, size=DEPTH_GRID),
        "constant": np.full(DEPTH_GRID, common),
        "other": other,
        "shuffled": rng.permutation(own.ravel()).reshape(DEPTH_GRID),
        "none": None,
    }


def _summed(
    records: Sequence[PerceptionRecord],
    images: Sequence[Path],
    kinds: Sequence[Kind],
    told: Mapping[int, Mapping[str, Any]],
    seed: int,
) -> Replacement:
    outcomes: dict[Kind, list[Outcome]] = {kind: [] for kind in kinds}
    skipped = [record.id for number, record in enumerate(records) if not told[number]]
    if len(skipped) == len(records):
        raise EvaluationError(
            f"none of {len(records)} answers holds one whole depth block; there is nothing to replace"
        )
    for number, record in enumerate(records):
        if not (found := told[number]):
            continue
        item = Item(record.id, _question(record), str(record.answer), dict.fromkeys(record.choices, ""), images[number])
        for kind, block, tail in zip(kinds, found["blocks"], found["tails"], strict=True):
            reading = read_answer(found["before"] + tail, record.choices)
            outcomes[kind].append(Outcome(item, found["before"] + block + tail, reading, ()))
    own_answers = outcomes.get("own")
    changed = {
        kind: float(np.mean([a.reading.value != b.reading.value for a, b in zip(own_answers, some, strict=True)]))
        for kind, some in outcomes.items()
        if own_answers is not None
    }
    scores = {kind: accuracy(some, seed) for kind, some in outcomes.items()}
    return Replacement(scores, changed, {kind: tuple(some) for kind, some in outcomes.items()}, tuple(skipped))


def _teacher(record: PerceptionRecord) -> np.ndarray:
    codes = record.evidence.codes
    if record.answer is None or not record.choices or codes is None or len(codes) != CELLS:
        raise EvaluationError(
            f"record {record.id}: the replacement test needs an answer, choices, and the codes of the teacher's map; "
            "take records of the depth task in the cot regime"
        )
    return np.array(codes, dtype=np.int64).reshape(DEPTH_GRID)


def _question(record: PerceptionRecord) -> str:
    return [turn.text for turn in record.turns if turn.role == "user"][-1]
