"""The token replacement test: does the answer depend on what the depth block says?

After "Ablate-to-Validate" (arXiv 2605.21642): the block that a model wrote is replaced, and the model goes on from
there. A model that answers as well from a random block does not use it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from perceptok.data.records.record import PerceptionRecord
from perceptok.depth.blocks import block_to_text
from perceptok.errors import EvaluationError
from perceptok.evaluation.answers import read_answer
from perceptok.evaluation.benchmarks.items import Item
from perceptok.evaluation.benchmarks.scoring import Outcome, Score, accuracy
from perceptok.evaluation.written import read_written
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Kind", "Pipeline", "Replacement", "replacement_test"]

Kind = Literal["own", "oracle", "random", "constant", "other", "shuffled", "none"]
CELLS = DEPTH_GRID[0] * DEPTH_GRID[1]


class Pipeline(Protocol):
    """What is asked of a pipeline: `perceptok.PerceptionPipeline` is one."""

    model: Any
    processor: Any
    vocab: Any

    def __call__(self, images: Any, questions: Any, **changes: Any) -> Any:
        """Answers, each with a `text`."""

    def prompted(self, image: Any, question: str) -> dict[str, Any]:
        """What the model takes, up to where the answer begins."""


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
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Replacement:
    """Accuracy with the own block and with others in its place.

    The model answers each question; at its block the text is cut, another block is put there, and the model goes on,
    greedily and without further perception tokens. All kinds of one question are one batch that shares the cache of
    picture, question and text before the block, so that these are computed once.

    Kinds: "own" as written; "oracle" the record's; "random" codes drawn evenly; "constant" the code that the records'
    blocks hold most often, 100 times; "other" the next record's; "shuffled" the own codes in another order; "none"
    nothing at all.

    Args:
        pipe: The model.
        records: Of the depth task, with answer, choices and the codes of the teacher's map.
        kinds: Which blocks to try.
        folder: That the records' images are relative to.
        max_answer_tokens: Of what follows the block.
        seed: Of random and shuffled blocks.
        advance: Called after every record.

    Raises:
        EvaluationError: An unknown kind, records without answer, choices or codes, or no block in any answer.
    """
    tried = list(dict.fromkeys(kinds))
    if not tried or set(tried) - set(get_args(Kind)):
        raise EvaluationError(f"kinds are {', '.join(get_args(Kind))}; got {', '.join(map(str, kinds)) or 'none'}")
    teachers = [_teacher(record) for record in records]
    common = Counter(code for codes in teachers for code in codes.ravel().tolist()).most_common(1)
    outcomes: dict[Kind, list[Outcome]] = {kind: [] for kind in tried}
    skipped: list[str] = []
    for number, record in enumerate(records):
        image, question = Path(folder) / record.images[0], _question(record)
        written = str(pipe(image, question, force_block="somewhere").text)
        own = read_written(written).block
        if own is None:
            skipped.append(record.id)
            advance()
            continue
        rng = np.random.default_rng([seed, number])
        blocks: dict[Kind, np.ndarray | None] = {
            "own": own,
            "oracle": teachers[number],
            "random": rng.integers(DEPTH.size, size=DEPTH_GRID),
            "constant": np.full(DEPTH_GRID, common[0][0]),
            "other": teachers[(number + 1) % len(records)],
            "shuffled": rng.permutation(own.ravel()).reshape(DEPTH_GRID),
            "none": None,
        }
        before = written[: written.index(DEPTH.start)]
        item = Item(record.id, question, str(record.answer), dict.fromkeys(record.choices, ""), image)
        tails = continue_after(pipe, image, question, before, [blocks[kind] for kind in tried], max_answer_tokens)
        for kind, tail in zip(tried, tails, strict=True):
            block = blocks[kind]
            text = before + ("" if block is None else block_to_text(block)) + tail
            outcomes[kind].append(Outcome(item, text, read_answer(before + tail, record.choices), ()))
        advance()
    if len(skipped) == len(records):
        raise EvaluationError(
            f"none of {len(records)} answers holds one whole depth block; there is nothing to replace"
        )
    own_answers = outcomes.get("own")
    changed = {
        kind: float(np.mean([a.reading.value != b.reading.value for a, b in zip(own_answers, told, strict=True)]))
        for kind, told in outcomes.items()
        if own_answers is not None
    }
    scores = {kind: accuracy(told, seed) for kind, told in outcomes.items()}
    return Replacement(scores, changed, {kind: tuple(told) for kind, told in outcomes.items()}, tuple(skipped))


def continue_after(
    pipe: Pipeline, image: Any, question: str, before: str, blocks: Sequence[np.ndarray | None], budget: int
) -> list[str]:
    """What the model writes after each block, (10, 10) or None; the prefix goes through the model once.

    Greedy; DEPTH and PIXEL tokens are not written again.
    """
    import torch

    tokenizer, model = pipe.processor.tokenizer, pipe.model
    inputs = dict(pipe.prompted(image, question))
    ids = inputs["input_ids"]
    said = tokenizer(before, add_special_tokens=False)["input_ids"] if before else []
    ids = torch.cat([ids, torch.tensor([said], dtype=ids.dtype, device=ids.device)], dim=1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    names = pipe.vocab.tokens
    barred = torch.tensor(
        [names[token] for tokens in (DEPTH, PIXEL) for token in tokens.tokens if token in names], device=ids.device
    )
    tails: list[str] = [""] * len(blocks)
    with torch.inference_mode():
        prefix = model(**inputs, use_cache=True, logits_to_keep=1)
        for places in (
            [n for n, one in enumerate(blocks) if one is not None],
            [n for n, one in enumerate(blocks) if one is None],
        ):
            if not places:
                continue
            cache = copy.deepcopy(prefix.past_key_values)
            cache.batch_repeat_interleave(len(places))
            logits = prefix.logits[:, -1].repeat(len(places), 1)
            if blocks[places[0]] is not None:
                rows = [_block_ids(blocks[place], names) for place in places]
                step = torch.tensor(rows, dtype=ids.dtype, device=ids.device)
                logits = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            written = _greedy(model, tokenizer, cache, logits, barred, budget)
            for place, row in zip(places, written, strict=True):
                tails[place] = str(tokenizer.decode(row, skip_special_tokens=True))
    return tails


def _greedy(model: Any, tokenizer: Any, cache: Any, logits: Tensor, barred: Tensor, budget: int) -> list[list[int]]:
    """The likeliest tokens of each row up to its end of sequence, that one excluded."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    stop = {ends} if isinstance(ends, int) else set(ends or ())
    rows: list[list[int]] = [[] for _ in range(len(logits))]
    going = set(range(len(rows)))
    for _ in range(budget):
        chosen = logits.index_fill(1, barred, float("-inf")).argmax(-1)
        for row in list(going):
            token = int(chosen[row])
            if token in stop:
                going.discard(row)
            else:
                rows[row].append(token)
        if not going:
            break
        logits = model(input_ids=chosen[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return rows


def _block_ids(block: np.ndarray | None, names: Mapping[str, int]) -> list[int]:
    assert block is not None
    return [names[DEPTH.start], *(names[DEPTH.token(code)] for code in block.ravel().tolist()), names[DEPTH.end]]


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
