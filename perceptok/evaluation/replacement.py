"""The token replacement test: does the answer depend on the depth block?

After "Ablate-to-Validate" (arXiv 2605.21642): the block that a model wrote is replaced, and the model continues from
there. A model that answers as well from a random block does not use it.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from perceptok.data import PerceptionRecord, find_supervision_problems
from perceptok.decoding import find_eos_token_ids, find_pad_token_id, read_evidence
from perceptok.depth import DepthCodec, block_to_text
from perceptok.errors import EvaluationError
from perceptok.evaluation.asking import make_request
from perceptok.evaluation.benchmarks import BenchmarkItem, check_codec, item_from_record
from perceptok.evaluation.reports import outcome_case, to_csv, to_markdown_table, write_texts
from perceptok.evaluation.scoring import Outcome, Score, Scores, compare_scores, compute_interval, compute_score
from perceptok.jobs import Journal, stamp_of
from perceptok.llava import PerceptionPipeline, Request
from perceptok.pages import Case, Fact, Table, write_page
from perceptok.tokens import DEPTH, DEPTH_GRID, PIXEL

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "REPLACEMENT_HEADER",
    "REPLACEMENT_KINDS",
    "CutAnswer",
    "Replacement",
    "ReplacementKind",
    "continue_after",
    "replacement_rows",
    "replacement_test",
    "write_replacement",
]


ReplacementKind = Literal["own", "oracle", "random", "constant", "other", "shuffled", "none"]
REPLACEMENT_KINDS: tuple[ReplacementKind, ...] = get_args(ReplacementKind)

REPLACEMENT_HEADER = (
    "block", "items", "right", "accuracy", "95 % interval", "unparsed", "answers changed", "minus own", "p",
)  # fmt: skip
_NOTE = (
    "Each answer is cut at its depth block, another block is inserted, and the model continues. Changed: share of "
    "items whose answer is another than with the own block. p: McNemar's exact test against the own block. Intervals "
    "of shares: Wilson, 95 %."
)


@dataclass(frozen=True)
class Replacement:
    """The result of a replacement test.

    Attributes:
        scores: ReplacementKind of block -> accuracy.
        changed: ReplacementKind of block -> share of items whose answer is another than with the own block.
        outcomes: ReplacementKind of block -> item by item.
        skipped: Ids of records for which the model wrote no whole block, or several; in no score.
        unread: Id of a record -> why it was not asked: its image cannot be read. In no score.
    """

    scores: Mapping[ReplacementKind, Score]
    changed: Mapping[ReplacementKind, float]
    outcomes: Mapping[ReplacementKind, tuple[Outcome, ...]]
    skipped: tuple[str, ...]
    unread: Mapping[str, str] = field(default_factory=dict)


def replacement_test(
    pipe: PerceptionPipeline,
    records: Sequence[PerceptionRecord],
    kinds: Sequence[ReplacementKind] = ("own", "oracle", "random", "constant", "shuffled", "none"),
    *,
    folder: str | Path = ".",
    max_new_tokens: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    output: str | Path | None = None,
    model: Any = "",
    advance: Callable[[], object] = lambda: None,
) -> Replacement:
    """Measure accuracy with the model's own depth block and with other blocks in its place.

    The model answers each question; the text is cut at its block, another block is inserted, and the model continues,
    greedily and without further perception tokens. All kinds of `batch_size` questions are one batch, which shares the
    cache of image, question and text before the block, so that these are computed once.

    Kinds: "own" as written; "oracle" the record's; "random" codes drawn uniformly; "constant" the most frequent code
    of the records' blocks, 100 times; "other" that of the next record with another block; "shuffled" the own codes in
    another order; "none" no block at all.

    Args:
        pipe: The model.
        records: Records of the depth task, with answer, choices and the codes of the teacher's map.
        kinds: The kinds of blocks to try.
        folder: The folder that the records' images are relative to.
        max_new_tokens: Maximum number of tokens after the block.
        batch_size: Questions per batch.
        seed: Seed of random and shuffled blocks.
        output: A file beside which answers are kept as they come (`OUTPUT.partial`), from which a stopped run resumes.
            The caller removes it once its own outputs are written.
        model: Identity of the model, as JSON types; answers of another one are refused.
        advance: Called after every record.

    Raises:
        EvaluationError: An unknown kind, records without answer, choices or codes, no image that can be read, or no
            block in any answer.
        OutputError: The kept answers are another run's.
    """
    tried = list(dict.fromkeys(kinds))
    if not tried or set(tried) - set(REPLACEMENT_KINDS):
        known = ", ".join(REPLACEMENT_KINDS)
        raise EvaluationError(f"the kinds of blocks are {known}; got {', '.join(map(str, kinds)) or 'no kind'}")
    if batch_size < 1 or max_new_tokens < 1:
        raise EvaluationError("batch_size and max_new_tokens are at least 1")
    teachers = [_teacher_codes(record, pipe.codec) for record in records]
    if not teachers:
        raise EvaluationError("no records were given; name a file with records of the depth task")
    items = [item_from_record(record, Path(folder)) for record in records]
    results: dict[int, dict[str, Any]] = {}
    unread: dict[str, str] = {}
    with ExitStack() as stack:
        journal = None
        if output is not None:
            questions: list[list[Any]] = [
                [record.id, item.history, item.question, record.answer, list(record.evidence.codes or ()), item.tokens]
                for record, item in zip(records, items, strict=True)
            ]
            stamps = [stamp_of(str(item.image), *item.more_images) for item in items]
            run = {
                "model": model,
                "files": pipe.stamps,
                "kinds": tried,
                "seed": seed,
                "max_new_tokens": max_new_tokens,
                "records": questions,
            }
            journal = stack.enter_context(Journal[dict[str, Any]](Path(output), run, stamps))
            results = {number: journal[number] for number in journal}
        for _ in results:
            advance()
        todo = [number for number in range(len(records)) if number not in results]
        for start in range(0, len(todo), batch_size):
            requests: dict[int, Request] = {}
            for number in todo[start : start + batch_size]:
                try:
                    requests[number] = make_request(items[number], "published")
                except EvaluationError as error:
                    unread[items[number].id] = str(error)
                    advance()
            batch = _replace_blocks(pipe, requests, teachers, tried, max_new_tokens, seed) if requests else []
            for number, result in zip(requests, batch, strict=True):
                results[number] = result
                if journal is not None:
                    journal.add(number, result)
                advance()
    if not results:
        raise EvaluationError(f"no image can be read: {next(iter(unread.values()))}")
    return _summarize(items, tried, results, unread)


def _replace_blocks(
    pipe: PerceptionPipeline,
    requests: Mapping[int, Request],
    teachers: Sequence[np.ndarray],
    kinds: Sequence[ReplacementKind],
    max_new_tokens: int,
    seed: int,
) -> list[dict[str, Any]]:
    """For each record its own text, and the text with each kind of block in its place; {} without a block."""
    answers = pipe.answers(list(requests.values()), force_block="somewhere", batch_size=len(requests))
    common = Counter(code for codes in teachers for code in codes.ravel().tolist()).most_common(1)[0][0]
    cuts: dict[int, CutAnswer] = {}
    for number, answer in zip(requests, answers, strict=True):
        written = str(answer.text)
        own = read_evidence(written).block
        if own is not None:
            blocks = _choose_blocks(number, own, teachers, common, seed)
            before = written[: written.index(DEPTH.start)]
            inserted = tuple(blocks[kind] for kind in kinds)
            cuts[number] = CutAnswer(requests[number], before, inserted)
    tails = dict(zip(cuts, continue_after(pipe, list(cuts.values()), max_new_tokens), strict=True))
    results: list[dict[str, Any]] = []
    for number in requests:
        if number in cuts:
            texts = ["" if block is None else block_to_text(block) for block in cuts[number].blocks]
            results.append({"before": cuts[number].before, "blocks": texts, "tails": tails[number]})
        else:
            results.append({})
    return results


def _choose_blocks(
    number: int, own: np.ndarray, teachers: Sequence[np.ndarray], common: int, seed: int
) -> dict[ReplacementKind, np.ndarray | None]:
    rng = np.random.default_rng([seed, number])
    others = (teachers[(number + step) % len(teachers)] for step in range(1, len(teachers)))
    other = next((block for block in others if not np.array_equal(block, teachers[number])), teachers[number])
    return {
        "own": own,
        "oracle": teachers[number],
        "random": rng.integers(DEPTH.size, size=DEPTH_GRID),
        "constant": np.full(DEPTH_GRID, common),
        "other": other,
        "shuffled": rng.permutation(own.ravel()).reshape(DEPTH_GRID),
        "none": None,
    }


def _summarize(
    items: Sequence[BenchmarkItem],
    kinds: Sequence[ReplacementKind],
    results: Mapping[int, Mapping[str, Any]],
    unread: Mapping[str, str],
) -> Replacement:
    outcomes: dict[ReplacementKind, list[Outcome]] = {kind: [] for kind in kinds}
    skipped = [items[number].id for number in sorted(results) if not results[number]]
    if len(skipped) == len(results):
        raise EvaluationError(
            f"none of {len(results)} answers has exactly one whole depth block, so no block can be replaced"
        )
    for number in sorted(results):
        item, result = items[number], results[number]
        for kind, block, tail in zip(kinds, result.get("blocks", ()), result.get("tails", ()), strict=bool(result)):
            reading = item.read(result["before"] + tail)
            outcomes[kind].append(Outcome(item, result["before"] + block + tail, reading, ()))
    own_answers = outcomes.get("own")
    changed = {
        kind: float(np.mean([a.reading.value != b.reading.value for a, b in zip(own_answers, answers, strict=True)]))
        for kind, answers in outcomes.items()
        if own_answers is not None
    }
    scores = {kind: compute_score(answers) for kind, answers in outcomes.items()}
    return Replacement(
        scores, changed, {kind: tuple(answers) for kind, answers in outcomes.items()}, tuple(skipped), unread
    )


def _teacher_codes(record: PerceptionRecord, codec: DepthCodec) -> np.ndarray:
    codes = record.evidence.codes
    if problems := find_supervision_problems(record):
        raise EvaluationError(f"record {record.id!r}: {problems[0]}; correct or remove the record")
    check_codec(record.id, record.evidence, codec)
    if record.answer is None or not record.choices or codes is None or len(codes) != DEPTH_GRID[0] * DEPTH_GRID[1]:
        raise EvaluationError(
            f"record {record.id}: the replacement test needs an answer, choices, and the codes of the teacher's map; "
            "take records of the depth task in the cot regime"
        )
    return np.array(codes, dtype=np.int64).reshape(DEPTH_GRID)


def replacement_rows(replacement: Replacement) -> list[tuple[str, ...]]:
    """Table rows below `REPLACEMENT_HEADER`; accuracies in percent, differences in points."""
    rows: list[tuple[str, ...]] = []
    for kind, score in replacement.scores.items():
        against = ("", "", "")
        if "own" in replacement.outcomes:
            pair = compare_scores(_scores(replacement.outcomes[kind]), _scores(replacement.outcomes["own"]))
            changed = replacement.changed[kind]
            low, high = compute_interval(round(changed * score.items), score.items)
            against = (
                f"{100 * changed:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                "" if kind == "own" else f"{100 * pair.difference:+.1f}",
                "" if kind == "own" else f"{pair.p_value:.3g}",
            )
        shares = (f"{100 * score.accuracy:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}")
        rows.append((kind, str(score.items), str(score.right), *shares, str(score.unparsed), *against))
    return rows


def write_replacement(
    replacement: Replacement, folder: str | Path, *, system: str, codec: DepthCodec, force: bool = False
) -> None:
    """Write `replacement.json`, `.csv`, `.md`, `answers.jsonl` (every text) and `page.html`.

    Raises:
        OutputError: A file exists already, or cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = replacement_rows(replacement)
    title = f"{system}: does the answer depend on its depth block?"
    skipped = (
        f"{len(replacement.skipped)} records are left out, whose answer does not have exactly one whole block. "
        if replacement.skipped
        else ""
    )
    if replacement.unread:
        skipped += f"{len(replacement.unread)} were not asked, since their images cannot be read. "
    values = {
        "system": system,
        "kinds": {
            kind: {**score._asdict(), "changed": replacement.changed.get(kind)}
            for kind, score in replacement.scores.items()
        },
        "skipped": list(replacement.skipped),
        "unread": dict(replacement.unread),
    }
    texts = {
        "replacement.csv": to_csv([("system", *REPLACEMENT_HEADER), *((system, *row) for row in rows)]),
        "replacement.md": f"**{system}**\n\n{to_markdown_table(REPLACEMENT_HEADER, rows)}\n{skipped}{_NOTE}\n",
        "answers.jsonl": "".join(json.dumps(line) + "\n" for line in _answer_lines(replacement)),
    }
    write_texts(folder, texts, force=force)
    table = Table("Accuracy with another block in its place, in percent", REPLACEMENT_HEADER, rows, skipped + _NOTE)
    write_page(folder / "page.html", _cases(replacement, codec), title=title, tables=[table], force=force)
    # Last, since its presence says that all files are complete.
    write_texts(folder, {"replacement.json": json.dumps(values, indent=2) + "\n"}, force=force)


def _scores(outcomes: tuple[Outcome, ...]) -> Scores:
    return Scores("", compute_score(outcomes), {}, outcomes, {})


def _answer_lines(replacement: Replacement) -> Iterator[dict[str, object]]:
    for kind, outcomes in replacement.outcomes.items():
        for outcome in outcomes:
            reading = outcome.reading.value
            yield {
                "id": outcome.item.id,
                "block": kind,
                "text": outcome.text,
                "read": reading,
                "right": outcome.right,
            }


def _cases(replacement: Replacement, codec: DepthCodec) -> Iterator[Case]:
    """One case for each record: the own block (or the first kind's) beside the teacher's, and each kind's answer."""
    first = "own" if "own" in replacement.outcomes else next(iter(replacement.outcomes))
    for number, outcome in enumerate(replacement.outcomes[first]):
        facts: dict[str, Fact] = {}
        for kind, outcomes in replacement.outcomes.items():
            other = outcomes[number]
            facts[f"with {kind}"] = f"{other.reading.value or 'unparsed'} ({'right' if other.right else 'wrong'})"
        written = read_evidence(outcome.text or "").block
        teacher = (
            read_evidence(replacement.outcomes["oracle"][number].text or "").block
            if "oracle" in replacement.outcomes
            else None
        )
        maps: dict[str, np.ndarray] = {}
        if written is not None:
            maps["depth"] = codec.decode(written)[0]
        if teacher is not None:
            maps["teacher"] = codec.decode(teacher)[0]
        codes = None if written is None else written.ravel().tolist()
        yield outcome_case(outcome, codes=codes, facts=facts, **maps)


class CutAnswer(NamedTuple):
    """An answer cut at its block.

    Attributes:
        request: The question with its images and the turns before it.
        before: What the model wrote up to the block.
        blocks: What to insert there: (10, 10) codes each, or None for nothing.
    """

    request: Request
    before: str
    blocks: tuple[np.ndarray | None, ...]


def continue_after(pipe: PerceptionPipeline, cuts: Sequence[CutAnswer], max_new_tokens: int) -> list[list[str]]:
    """Continue each answer after each of its blocks, as `generate` does one at a time.

    Greedy decoding, without further DEPTH and PIXEL tokens. All answers are one batch, padded on the left, where their
    images have the same shape; every prefix then goes through the model once. Positions, masks and token types are
    those that the model's own preparation for `generate` gives. Models that attend differently to a prompt than to an
    answer (those with `token_type_ids`, such as PaliGemma), and those that take no positions, are asked one by one.

    Returns:
        For each answer the text after each of its blocks.
    """
    if not cuts:
        return []
    prefixes = [_encode_prefix(pipe, cut) for cut in cuts]
    if not _can_share_prefix(pipe.model, prefixes[0]):
        return [[_generate_after(pipe, cut, block, max_new_tokens) for block in cut.blocks] for cut in cuts]
    batch = _pad_batch(prefixes, find_pad_token_id(pipe.model, pipe.processor.tokenizer))
    if batch is None:
        return [tails for cut in cuts for tails in continue_after(pipe, [cut], max_new_tokens)]
    names = pipe.vocab.tokens
    tails = [[""] * len(cut.blocks) for cut in cuts]
    with _without_gradients():
        prefix = _DecodingState.begin(pipe.model, batch)
        for is_filled in (True, False):
            places = [place for place, block in enumerate(cuts[0].blocks) if (block is not None) == is_filled]
            if not places:
                continue
            state = prefix.repeat(len(places))
            if is_filled:
                state.append([_block_ids(cut.blocks[place], names) for cut in cuts for place in places])
            written = iter(_decode_greedily(pipe, state, max_new_tokens))
            for row in tails:
                for place in places:
                    row[place] = str(pipe.processor.tokenizer.decode(next(written), skip_special_tokens=True))
    return tails


def _without_gradients() -> Any:
    import torch

    return torch.inference_mode()


def _can_share_prefix(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether continuing from the cache of a prefix equals generating from the prompt on."""
    takes_positions = (
        "position_ids" in inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    )
    return takes_positions and "token_type_ids" not in inputs


class _DecodingState:
    """A batch while it is decoded: ids, and what the model's own `generate` keeps between two steps."""

    def __init__(self, model: Any, ids: Tensor, options: dict[str, Any], logits: Tensor) -> None:
        self._model, self._ids, self._options = model, ids, options
        self.logits = logits
        """(B, V), of the next token."""

    @classmethod
    def begin(cls, model: Any, inputs: Mapping[str, Any]) -> _DecodingState:
        """The state after a batch of prompts."""
        ids = inputs["input_ids"]
        options = {name: value for name, value in inputs.items() if name != "input_ids"}
        options["position_ids"] = model._prepare_position_ids_for_generation(ids, dict(options))
        prepared = model.prepare_inputs_for_generation(ids, is_first_iteration=True, use_cache=True, **options)
        outputs = model(**{**prepared, "use_cache": True, "logits_to_keep": 1, "return_dict": True})
        kept = ("attention_mask", "position_ids", "mm_token_type_ids")
        options = {name: value for name, value in options.items() if name in kept}
        return cls(model, ids, {**options, "past_key_values": outputs.past_key_values}, outputs.logits[:, -1])

    def repeat(self, count: int) -> _DecodingState:
        """A copy in which every row occurs `count` times in succession."""
        cache = copy.deepcopy(self._options["past_key_values"])
        cache.batch_repeat_interleave(count)
        # Positions of models with several kinds of them are (kinds, B, T).
        options = {
            name: value.repeat_interleave(count, dim=value.ndim - 2)
            for name, value in self._options.items()
            if name != "past_key_values"
        }
        options["past_key_values"] = cache
        ids, logits = (tensor.repeat_interleave(count, dim=0) for tensor in (self._ids, self.logits))
        return _DecodingState(self._model, ids, options, logits)

    def append(self, new_ids: Sequence[Sequence[int]] | Tensor) -> None:
        """Pass further ids (B, N) through the model."""
        import torch

        new = torch.as_tensor(new_ids, dtype=self._ids.dtype, device=self._ids.device)
        self._ids = torch.cat([self._ids, new], dim=1)
        count = new.shape[1]
        self._options = self._model._update_model_kwargs_for_generation({}, self._options, num_new_tokens=count)
        prepared = self._model.prepare_inputs_for_generation(
            self._ids, next_sequence_length=count, use_cache=True, **self._options
        )
        outputs = self._model(**{**prepared, "use_cache": True, "logits_to_keep": 1, "return_dict": True})
        self._options["past_key_values"] = outputs.past_key_values
        self.logits = outputs.logits[:, -1]


def _encode_prefix(pipe: PerceptionPipeline, cut: CutAnswer) -> dict[str, Any]:
    """The model inputs of the prompt and of what was written before the block."""
    import torch

    inputs = pipe.prepare_requests([cut.request])
    ids = inputs["input_ids"]
    before = pipe.processor.tokenizer(cut.before, add_special_tokens=False)["input_ids"] if cut.before else []
    new_ids = torch.tensor([before], dtype=ids.dtype, device=ids.device)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == ids.shape and name != "input_ids":
            filler = torch.ones_like(new_ids) if name == "attention_mask" else torch.zeros_like(new_ids)
            inputs[name] = torch.cat([value, filler.to(value.dtype)], dim=1)
    inputs["input_ids"] = torch.cat([ids, new_ids], dim=1)
    return inputs


def _pad_batch(inputs: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any] | None:
    """One batch of all inputs, padded on the left; None where they cannot be one."""
    import torch

    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(row["input_ids"].shape[1] for row in inputs)
    batch: dict[str, Any] = {}
    for name, first in inputs[0].items():
        values = [row[name] for row in inputs]
        if not isinstance(first, torch.Tensor):
            return None
        if first.shape == inputs[0]["input_ids"].shape:
            fill = pad if name == "input_ids" else 0
            values = [torch.nn.functional.pad(value, (longest - value.shape[1], 0), value=fill) for value in values]
        elif any(value.shape[1:] != first.shape[1:] for value in values):
            return None
        batch[name] = torch.cat(values)
    return batch


def _decode_greedily(pipe: PerceptionPipeline, state: _DecodingState, max_new_tokens: int) -> list[list[int]]:
    """The most likely tokens of each row, up to and without its end of sequence."""
    import torch

    stop = find_eos_token_ids(pipe.model, pipe.processor.tokenizer)
    banned = torch.tensor(_list_banned_ids(pipe), device=state.logits.device)
    rows: list[list[int]] = [[] for _ in range(len(state.logits))]
    unfinished = set(range(len(rows)))
    for _ in range(max_new_tokens):
        chosen = state.logits.index_fill(1, banned, float("-inf")).argmax(-1)
        for row in list(unfinished):
            token = int(chosen[row])
            if token in stop:
                unfinished.discard(row)
            else:
                rows[row].append(token)
        if not unfinished:
            break
        state.append(chosen[:, None])
    return rows


def _generate_after(pipe: PerceptionPipeline, cut: CutAnswer, block: np.ndarray | None, max_new_tokens: int) -> str:
    """The text after one block, by the model's `generate` from the prompt on, which is made to write what precedes."""
    import torch
    from transformers import LogitsProcessorList

    tokenizer = pipe.processor.tokenizer
    written = tokenizer(cut.before, add_special_tokens=False)["input_ids"] if cut.before else []
    forced = [*written, *(_block_ids(block, pipe.vocab.tokens) if block is not None else [])]
    inputs = pipe.prepare_requests([cut.request])
    length = inputs["input_ids"].shape[1]
    banned = torch.tensor(_list_banned_ids(pipe), device=inputs["input_ids"].device)

    def constrain(ids: Tensor, scores: Tensor) -> Tensor:
        place = ids.shape[1] - length
        if place >= len(forced):
            return scores.index_fill(1, banned, float("-inf"))
        return torch.full_like(scores, float("-inf")).index_fill(1, ids.new_tensor([forced[place]]), 0.0)

    stop = find_eos_token_ids(pipe.model, tokenizer)
    with _without_gradients():
        out = pipe.model.generate(
            **inputs,
            logits_processor=LogitsProcessorList([constrain]),
            max_new_tokens=len(forced) + max_new_tokens,
            min_length=0,
            num_beams=1,
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=list(stop) or None,
            pad_token_id=find_pad_token_id(pipe.model, tokenizer),
        )
    tail = out[0, length + len(forced) :].tolist()
    end = next((index for index, token_id in enumerate(tail) if token_id in stop), len(tail))
    return str(tokenizer.decode(tail[:end], skip_special_tokens=True))


def _list_banned_ids(pipe: PerceptionPipeline) -> list[int]:
    names = pipe.vocab.tokens
    return [names[token] for tokens in (DEPTH, PIXEL) for token in tokens.tokens if token in names]


def _block_ids(block: np.ndarray | None, names: Mapping[str, int]) -> list[int]:
    assert block is not None
    return [names[DEPTH.start], *(names[DEPTH.token(code)] for code in block.ravel().tolist()), names[DEPTH.end]]
