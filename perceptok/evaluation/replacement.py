"""The token replacement test: does the answer depend on what the depth block says?

After "Ablate-to-Validate" (arXiv 2605.21642): the block that a model wrote is replaced, and the model goes on from
there. A model that answers as well from a random block does not use it.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from perceptok.data import PerceptionRecord
from perceptok.decoding import read_answer, read_evidence
from perceptok.depth import DepthCodec, block_to_text
from perceptok.errors import EvaluationError
from perceptok.evaluation.benchmarks import Item
from perceptok.evaluation.scoring import Outcome, Score, Scores, accuracy, case_of, compare, markdown_rows
from perceptok.files import atomic_write
from perceptok.jobs import Journal, stamp_of
from perceptok.pages import Case, Fact, Table, write_page
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "KINDS",
    "REPLACEMENT_HEADER",
    "Cut",
    "Kind",
    "Pipeline",
    "Replacement",
    "continue_after",
    "replacement_rows",
    "replacement_test",
    "write_replacement",
]


class Pipeline(Protocol):
    """What is asked of a pipeline: `perceptok.PerceptionPipeline` is one."""

    model: Any
    processor: Any
    vocab: Any

    def __call__(self, images: Any, questions: Any, **changes: Any) -> Any:
        """Answers, each with a `text`."""

    def prompted(self, image: Any, question: str) -> dict[str, Any]:
        """What the model takes, up to where the answer begins."""


class Cut(NamedTuple):
    """An answer cut at its block.

    Attributes:
        image: The picture.
        question: In words.
        before: What the model wrote up to the block.
        blocks: What to put there, (10, 10) codes each, or None for nothing.
    """

    image: Any
    question: str
    before: str
    blocks: tuple[np.ndarray | None, ...]


def continue_after(pipe: Pipeline, cuts: Sequence[Cut], budget: int) -> list[list[str]]:
    """What the model writes after each block of each cut; every prefix goes through the model once.

    Greedy; DEPTH and PIXEL tokens are not written again. All cuts are one batch, padded on the left, where their
    pictures have the same shape; otherwise each is a batch of its own.

    Args:
        pipe: The model.
        cuts: With None in the same places of `blocks`.
        budget: Tokens after a block.
    """
    import torch

    if not cuts:
        return []
    inputs = [_before(pipe, cut) for cut in cuts]
    together = _padded(inputs, _pad(pipe))
    if together is None:
        return [tails for cut in cuts for tails in continue_after(pipe, [cut], budget)]
    names = pipe.vocab.tokens
    device = together["input_ids"].device
    barred = torch.tensor(
        [names[token] for tokens in (DEPTH, PIXEL) for token in tokens.tokens if token in names], device=device
    )
    tails = [[""] * len(cut.blocks) for cut in cuts]
    filled = [place for place, block in enumerate(cuts[0].blocks) if block is not None]
    empty = [place for place, block in enumerate(cuts[0].blocks) if block is None]
    mask = together["attention_mask"]
    with torch.inference_mode():
        prefix = pipe.model(**together, use_cache=True, logits_to_keep=1)
        for places in (filled, empty):
            if not places:
                continue
            state = _State(copy.deepcopy(prefix.past_key_values), mask.repeat_interleave(len(places), 0), len(cuts) > 1)
            state.cache.batch_repeat_interleave(len(places))
            logits = prefix.logits[:, -1].repeat_interleave(len(places), 0)
            if places is filled:
                rows = [_block_ids(cut.blocks[place], names) for cut in cuts for place in places]
                logits = state.step(pipe.model, torch.tensor(rows, dtype=torch.int64, device=device))
            written = iter(_greedy(pipe, state, logits, barred, budget))
            for told in tails:
                for place in places:
                    told[place] = str(pipe.processor.tokenizer.decode(next(written), skip_special_tokens=True))
    return tails


class _State:
    """A batch on its way: the cache and what of it is padding."""

    def __init__(self, cache: Any, mask: Tensor, padded: bool) -> None:
        self.cache, self.mask, self.padded = cache, mask, padded

    def step(self, model: Any, ids: Tensor) -> Tensor:
        """The logits (B, V) after further ids (B, N)."""
        import torch

        more: dict[str, Any] = {}
        if self.padded:
            begun = self.mask.sum(1, keepdim=True)
            self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
            more = {
                "attention_mask": self.mask,
                "position_ids": begun + torch.arange(ids.shape[1], device=ids.device),
            }
        found = model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **more)
        logits: Tensor = found.logits[:, -1]
        return logits


def _before(pipe: Pipeline, cut: Cut) -> dict[str, Any]:
    """A prompt and what was written before the block, as the model takes it."""
    import torch

    inputs = dict(pipe.prompted(cut.image, cut.question))
    ids = inputs["input_ids"]
    said = pipe.processor.tokenizer(cut.before, add_special_tokens=False)["input_ids"] if cut.before else []
    more = torch.tensor([said], dtype=ids.dtype, device=ids.device)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == ids.shape and name != "input_ids":
            filler = torch.ones_like(more) if name == "attention_mask" else torch.zeros_like(more)
            inputs[name] = torch.cat([value, filler.to(value.dtype)], dim=1)
    inputs["input_ids"] = torch.cat([ids, more], dim=1)
    return inputs


def _padded(inputs: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any] | None:
    """One batch of all, padded on the left; None where they cannot be one."""
    import torch

    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(one["input_ids"].shape[1] for one in inputs)
    batch: dict[str, Any] = {}
    for name, first in inputs[0].items():
        values = [one[name] for one in inputs]
        if not isinstance(first, torch.Tensor):
            return None
        if first.shape == inputs[0]["input_ids"].shape:
            fill = pad if name == "input_ids" else 0
            values = [torch.nn.functional.pad(one, (longest - one.shape[1], 0), value=fill) for one in values]
        elif any(one.shape[1:] != first.shape[1:] for one in values):
            return None
        batch[name] = torch.cat(values)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def _greedy(pipe: Pipeline, state: _State, logits: Tensor, barred: Tensor, budget: int) -> list[list[int]]:
    """The likeliest tokens of each row up to its end of sequence, that one excluded."""
    ends = pipe.model.generation_config.eos_token_id
    ends = pipe.processor.tokenizer.eos_token_id if ends is None else ends
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
        logits = state.step(pipe.model, chosen[:, None])
    return rows


def _pad(pipe: Pipeline) -> int:
    tokenizer = pipe.processor.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def _block_ids(block: np.ndarray | None, names: Mapping[str, int]) -> list[int]:
    assert block is not None
    return [names[DEPTH.start], *(names[DEPTH.token(code)] for code in block.ravel().tolist()), names[DEPTH.end]]


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
        own = read_evidence(written).block
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


REPLACEMENT_HEADER = (
    "block", "items", "right", "accuracy", "95 % interval", "unparsed", "answers changed", "minus own", "p",
)  # fmt: skip
_NOTE = (
    "Each answer is cut at its depth block, another block is put there, and the model goes on. Changed: share of items "
    "whose answer is another than with the own block. p: McNemar's exact test against the own block."
)


def replacement_rows(told: Replacement) -> list[tuple[str, ...]]:
    """Cells below `REPLACEMENT_HEADER`; accuracies in percent, differences in points."""
    rows: list[tuple[str, ...]] = []
    for kind, one in told.scores.items():
        against = ("", "", "")
        if "own" in told.outcomes:
            pair = compare(_scores(told.outcomes[kind]), _scores(told.outcomes["own"]))
            against = (
                f"{100 * told.changed[kind]:.1f}",
                "" if kind == "own" else f"{100 * pair.difference:+.1f}",
                "" if kind == "own" else f"{pair.p_value:.3g}",
            )
        shares = (f"{100 * one.accuracy:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}")
        rows.append((kind, str(one.items), str(one.right), *shares, str(one.unparsed), *against))
    return rows


def write_replacement(
    told: Replacement, folder: str | Path, *, system: str, codec: DepthCodec, force: bool = False
) -> None:
    """Write `replacement.json`, `.csv`, `.md`, `answers.jsonl` (every text) and `page.html`.

    Raises:
        OutputError: As for `atomic_write`.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    rows = replacement_rows(told)
    title = f"{system}: what the answer makes of its depth block"
    skipped = (
        f"{len(told.skipped)} records are left out: no whole block, or several, was written. " if told.skipped else ""
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([("system", *REPLACEMENT_HEADER), *((system, *row) for row in rows)])
    values = {
        "system": system,
        "kinds": {kind: {**one._asdict(), "changed": told.changed.get(kind)} for kind, one in told.scores.items()},
        "skipped": list(told.skipped),
    }
    texts = {
        "replacement.csv": out.getvalue(),
        "replacement.md": f"**{system}**\n\n{markdown_rows(REPLACEMENT_HEADER, rows)}\n{skipped}{_NOTE}\n",
        "answers.jsonl": "".join(json.dumps(line) + "\n" for line in _lines(told)),
    }
    for name, text in texts.items():
        with atomic_write(place / name, force=force) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    table = Table("Accuracy with another block in its place, in percent", REPLACEMENT_HEADER, rows, skipped + _NOTE)
    write_page(place / "page.html", _cases(told, codec), title=title, tables=[table], force=force)
    # Last: it says that everything is there.
    with atomic_write(place / "replacement.json", force=force) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def _scores(outcomes: tuple[Outcome, ...]) -> Scores:
    return Scores("", accuracy(outcomes), {}, outcomes, {})


def _lines(told: Replacement) -> Iterator[dict[str, object]]:
    for kind, outcomes in told.outcomes.items():
        for one in outcomes:
            yield {"id": one.item.id, "block": kind, "text": one.text, "read": one.reading.value, "right": one.right}


def _cases(told: Replacement, codec: DepthCodec) -> Iterator[Case]:
    """A case a record: the own block (or the first kind's) beside the teacher's, and each kind's answer."""
    first = "own" if "own" in told.outcomes else next(iter(told.outcomes))
    for number, outcome in enumerate(told.outcomes[first]):
        facts: dict[str, Fact] = {}
        for kind, outcomes in told.outcomes.items():
            one = outcomes[number]
            facts[f"with {kind}"] = f"{one.reading.value or 'unparsed'} ({'right' if one.right else 'wrong'})"
        shown = read_evidence(outcome.text or "").block
        teacher = read_evidence(told.outcomes["oracle"][number].text or "").block if "oracle" in told.outcomes else None
        maps: dict[str, np.ndarray] = {}
        if shown is not None:
            maps["depth"] = codec.decode(shown)[0]
        if teacher is not None:
            maps["teacher"] = codec.decode(teacher)[0]
        codes = None if shown is None else shown.ravel().tolist()
        yield case_of(outcome, codes=codes, facts=facts, **maps)
