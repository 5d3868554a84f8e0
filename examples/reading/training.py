"""Trains a language model to read: one function, and all that an experiment varies as a `Setting`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import counting
import lessons as reading
import numpy as np
import torch
from lessons import Form, Lessons
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.llava import small
from perceptok.losses import distillation_loss
from perceptok.tokens import DEPTH, PIXEL, TokenSet
from perceptok.vocabulary import PerceptionVocabulary, VocabularyAlignment

PIECES = 1024
"""Pieces of SmolLM2's tokenizer that are used: letters, digits and the most frequent words."""
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
FIRST_STAGE, NEXT_STAGE = 250, 75
"""Updates of the first and of each further stage of a staged curriculum."""
VALIDATION = 80
"""Held-out lessons that decide when training ends; the result is measured on the others."""


@dataclass(frozen=True)
class Setting:
    """One experiment; the defaults are the form that the others are compared with.

    Attributes:
        task: "points" (the nearest of 2 to 5 points) or "counting".
        form: The text of lessons about points.
        listing: The list of boxes, for counting.
        model: "small", random weights of 128 dimensions; "smollm2", the first layers of SmolLM2-135M, whose updates
            cost some ten times as much; "smollm2_random", random weights of the same shapes.
        layers: Number of layers.
        init: The initialization of the DEPTH tokens' rows; "ordinal" uses the order of the ids.
        ids: The codes' ids "as_trained" by the codec, or "sorted" by the mean nearness of their cells.
        conclusion_weight: Weight of the conclusion's letter in the loss; the other supervised tokens have 1.
        block_loss: The loss of the block's codes, which precede the question and cannot be known: "none"; or "one_hot",
            each with weight 1 as in training on whole chains of thought.
        codes_loss: The loss of the quoted codes: "one_hot" cross entropy; "soft", Eq. 1 with the codec's probabilities
            instead; "beside", Eq. 1 with soft probabilities added to cross entropy.
        curriculum: The number of points of a question: "all", 2 to 5 from the start; "staged", one for the first
            `FIRST_STAGE` updates, then 1 to 2, and one more every `NEXT_STAGE` updates until 1 to 5.
        updates: Number of updates after which training stops in any case.
        blocks: Blocks in a batch; for counting, a batch has four lists for each.
        points: Points of the questions about each block of a batch, on average. The questions share the block's keys
            and values and do not see each other, which is the same as as many separate samples.
        learning_rate: Of AdamW, constant after a warmup of 50 updates.
        seed: Of the order of samples and of random weights.
    """

    task: Literal["points", "counting"] = "points"
    form: Form = field(default_factory=Form)
    listing: counting.Listing = field(default_factory=counting.Listing)
    model: Literal["smollm2", "smollm2_random", "small"] = "small"
    layers: int = 2
    init: Literal["codebook", "normal", "mean", "ordinal"] = "codebook"
    ids: Literal["as_trained", "sorted"] = "as_trained"
    conclusion_weight: float = 1.0
    block_loss: Literal["none", "one_hot"] = "none"
    codes_loss: Literal["one_hot", "soft", "beside"] = "one_hot"
    curriculum: Literal["all", "staged"] = "staged"
    updates: int = 600
    blocks: int = 8
    points: int = 24
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Lessons of a run; counting draws its own.

    Attributes:
        train: Blocks for training.
        heldout: Blocks of other scenes.
        codec: The codec of the blocks.
    """

    train: Lessons
    heldout: Lessons
    codec: pt.DepthCodec


@dataclass(frozen=True)
class Branch:
    """One question.

    Attributes:
        prompt: Ids of the question; may be empty.
        answer: Ids of the answer, the conclusion last.
        weights: The weight of each id of the answer in the loss; 0 for those that are given.
        cells: For each id of the answer the cell whose code it quotes, or -1.
        size: Number of points, or the count.
    """

    prompt: list[int]
    answer: list[int]
    weights: list[float]
    cells: list[int]
    size: int


@dataclass(frozen=True)
class LessonIds:
    """Token ids of a prefix and of the branches that continue it.

    Attributes:
        prefix: Ids of the block, or empty.
        branches: The questions.
        block: Number of the block.
    """

    prefix: list[int]
    branches: list[Branch]
    block: int = 0


class Writer:
    """Writes lessons as token ids.

    Args:
        tokenizer: With the perception tokens.
        vocab: Their ids.
        setting: The experiment.
        levels: (128,) mean nearness of each code, for sorted ids.
    """

    def __init__(self, tokenizer: Any, vocab: PerceptionVocabulary, setting: Setting, levels: NDArray[np.float64]):
        self.tokenizer, self.vocab, self.setting = tokenizer, vocab, setting
        ranks = np.argsort(np.argsort(np.nan_to_num(levels, nan=2.0), kind="stable"))
        order = ranks if setting.ids == "sorted" else np.arange(DEPTH.size)
        self.alignment = VocabularyAlignment(tuple(order.tolist()), DEPTH.size)
        self.code_ids: list[int] = self.alignment.token_ids(vocab).tolist()
        self._cache: dict[str, list[int]] = {f"<DEPTH_{code}>": [self.code_ids[code]] for code in range(DEPTH.size)}

    def encode(self, piece: str) -> list[int]:
        """The ids of a piece of text."""
        if piece not in self._cache:
            self._cache[piece] = self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return self._cache[piece]

    def encode_all(self, pieces: Sequence[str]) -> list[int]:
        """The ids of pieces, one after the other."""
        return [token for piece in pieces for token in self.encode(piece)]

    def write_points(
        self,
        lessons: Lessons,
        block: int,
        questions: int,
        rng: np.random.Generator,
        sizes: tuple[int, int] = (2, 5),
    ) -> list[LessonIds]:
        """Questions about one block, of `sizes[0]` to `sizes[1]` points; where they precede it, a sequence for each."""
        form, codes = self.setting.form, lessons.codes[block]
        prefix = self.encode_all(reading.write_block(codes, form))
        branches = []
        for _ in range(questions):
            points = reading.draw_points(lessons.values[block], int(rng.integers(sizes[0], sizes[1] + 1)), rng)
            pieces = reading.write_answer(points, codes, form)
            branches.append(
                self._write_branch(self.encode_all(reading.write_question(points, form)), pieces, len(points))
            )
        if form.order != "question_block":
            return [LessonIds(prefix, branches, block)]
        return [LessonIds([], [replace(branch, prompt=[*branch.prompt, *prefix])], block) for branch in branches]

    def _write_branch(self, prompt: list[int], pieces: Sequence[reading.Piece], size: int) -> Branch:
        """A branch whose last piece is the conclusion."""
        encoded = [(token, piece) for piece in pieces for token in self.encode(piece.text)]
        weights = [0.0 if piece.is_given else 1.0 for _, piece in encoded]
        weights[-1] = self.setting.conclusion_weight
        return Branch(prompt, [token for token, _ in encoded], weights, [piece.cell for _, piece in encoded], size)

    def write_counting(self, count: int, rng: np.random.Generator) -> LessonIds:
        """A list of random boxes and its count; the coordinates are given."""
        pieces = counting.write_list(counting.draw_boxes(count, rng), self.setting.listing)
        answer = [reading.Piece(text, not is_known) for text, is_known in pieces]
        answer += [reading.Piece(text, is_given=True) for text in (" There", counting.CUE, " ")]
        answer += [reading.Piece(text) for text in f"{count:02d}"]
        return LessonIds([], [self._write_branch(self.encode("\n"), answer, count)])


@dataclass(frozen=True)
class Batch:
    """Padded sequences.

    Attributes:
        ids: (B, T) int64.
        positions: (B, T) int64; each branch continues the prefix.
        mask: (B, 1, T, T) bool: whether a row's token sees a column's.
        rows: (N,) row of each supervised token's predecessor.
        columns: (N,) its column.
        targets: (N,) the supervised tokens.
        weights: (N,) float32.
        blocks: (N,) number of the block, where the token quotes a code; otherwise -1.
        cells: (N,) the cell that it quotes; otherwise -1.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    blocks: Tensor
    cells: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})


def make_batch(sequences: Sequence[LessonIds], block_loss: bool = False) -> Batch:
    """Pad sequences of one prefix and several branches to one length."""
    lengths = [
        len(sequence.prefix) + sum(len(branch.prompt) + len(branch.answer) for branch in sequence.branches)
        for sequence in sequences
    ]
    size = (len(sequences), max(lengths))
    ids, positions = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    branches = torch.full(size, -1)
    supervised: list[tuple[int, int, int, float, int, int]] = []
    for row, sequence in enumerate(sequences):
        place = len(sequence.prefix)
        ids[row, :place] = torch.tensor(sequence.prefix, dtype=torch.long)
        positions[row, :place] = torch.arange(place)
        branches[row, :place] = 0
        if block_loss:
            weight = float(len(sequence.branches))  # as in as many separate samples
            block = list(enumerate(sequence.prefix))[1:-1]
            supervised += [(row, column - 1, token, weight, -1, -1) for column, token in block]
        for number, branch in enumerate(sequence.branches, 1):
            end = place + len(branch.prompt) + len(branch.answer)
            ids[row, place:end] = torch.tensor(branch.prompt + branch.answer)
            positions[row, place:end] = torch.arange(end - place) + len(sequence.prefix)
            branches[row, place:end] = number
            if not branch.prompt:  # its first token follows the prefix
                assert branch.weights[0] == 0, "the first token of an answer without a question is given"
            first = place + len(branch.prompt) - 1
            supervised += [
                (row, first + index, token, weight, sequence.block if cell >= 0 else -1, cell)
                for index, (token, weight, cell) in enumerate(
                    zip(branch.answer, branch.weights, branch.cells, strict=True)
                )
                if weight
            ]
            place = end
    sees = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    mask = sees & torch.ones(size[1], size[1], dtype=torch.bool).tril()
    rows, places, targets, token_weights, blocks, quoted = map(torch.tensor, zip(*supervised, strict=True))
    return Batch(ids, positions, mask[:, None], rows, places, targets, token_weights.float(), blocks, quoted)


def prepare_base(folder: Path, layers: int) -> Path:
    """Write SmolLM2's first layers and pieces once, so that every experiment loads them in a second."""
    if not (folder / "config.json").is_file():
        model = small.load_small_language_model(layers, PIECES)
        tokenizer = small.load_small_tokenizer(PIECES)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def build_model(setting: Setting, data: Data, base: Path) -> tuple[Any, Writer]:
    """The language model with perception tokens, and the writer of its lessons."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    config: Any = AutoConfig.from_pretrained(base, num_hidden_layers=setting.layers)
    if setting.model == "smollm2":
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, config=config)
    else:
        if setting.model == "small":
            config.update(SMALL)
        torch.manual_seed(setting.seed)
        model = AutoModelForCausalLM.from_config(config)
    inits: dict[TokenSet, Any] = {DEPTH: setting.init, PIXEL: "ordinal"}
    codebook = data.codec.codebook if setting.init == "codebook" else None
    vocab = pt.extend_vocabulary(tokenizer, model, (DEPTH, PIXEL), init=inits, codebook=codebook, seed=setting.seed)
    return model, Writer(tokenizer, vocab, setting, data.train.levels)


def compute_loss(model: Any, writer: Writer, batch: Batch, soft: NDArray[np.float16], bf16: bool) -> Tensor:
    """The weighted mean of the supervised tokens' losses."""
    batch = batch.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        hidden = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[batch.rows, batch.columns]).float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    if writer.setting.codes_loss != "one_hot":
        quoted = batch.cells >= 0
        teacher = torch.from_numpy(soft[batch.blocks[quoted].cpu().numpy(), batch.cells[quoted].cpu().numpy()]).float()
        teacher = (teacher / teacher.sum(-1, keepdim=True)).to(model.device)
        eq1 = distillation_loss(logits[quoted], teacher, writer.alignment, writer.vocab, reduction="none")
        before = losses[quoted] if writer.setting.codes_loss == "beside" else 0.0
        losses = losses.masked_scatter(quoted, before + eq1)
    return (losses * batch.weights).sum() / batch.weights.sum()


def choose_sizes(setting: Setting, step: int) -> tuple[int, int]:
    """The least and the greatest number of points of a question in an update, which count from 1."""
    if setting.curriculum == "all":
        return 2, 5
    later = max(0, step - FIRST_STAGE + NEXT_STAGE - 1) // NEXT_STAGE
    return 1, min(5, 1 + later)


def draw_batch(writer: Writer, data: Data, rng: np.random.Generator, step: int) -> Batch:
    """The batch of an update of the setting's task."""
    setting = writer.setting
    if setting.task == "counting":
        counts = rng.integers(1, counting.MAX_COUNT + 1, 4 * setting.blocks)
        return make_batch([writer.write_counting(int(count), rng) for count in counts])
    sequences = []
    sizes = choose_sizes(setting, step)
    questions = round(setting.points / (sum(sizes) / 2))
    for block in rng.integers(len(data.train), size=setting.blocks):
        sequences += writer.write_points(data.train, int(block), questions, rng, sizes)
    return make_batch(sequences, setting.block_loss == "one_hot")


@torch.no_grad()
def generate(model: Any, sequences: Sequence[LessonIds], bf16: bool) -> list[list[int]]:
    """Write the answers of sequences with one branch each greedily; tokens that are given are not chosen.

    Args:
        model: The language model.
        sequences: Lessons with prefixes of one length.
        bf16: Compute in bfloat16.

    Returns:
        Ids as long as each answer.
    """
    branches = [sequence.branches[0] for sequence in sequences]
    prefixes = torch.tensor([sequence.prefix for sequence in sequences], dtype=torch.long)
    given = [_count_given(branch) for branch in branches]
    starts = [branch.prompt + branch.answer[:count] for branch, count in zip(branches, given, strict=True)]
    length, before = max(map(len, starts)), prefixes.shape[1]
    ids = torch.tensor([[0] * (length - len(start)) + start for start in starts])
    real = torch.tensor([[0] * (length - len(start)) + [1] * len(start) for start in starts])
    positions = before + (real.cumsum(1) - 1).clamp(min=0)
    mask = torch.cat([torch.ones(len(starts), before, dtype=torch.long), real], dim=1)
    written = [branch.answer[:count] for branch, count in zip(branches, given, strict=True)]
    cache, device = None, model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        if before:
            cache = model.model(input_ids=prefixes.to(device), use_cache=True).past_key_values
        while any(len(row) < len(branch.answer) for row, branch in zip(written, branches, strict=True)):
            output = model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, chosen = output.past_key_values, output.logits[:, -1].argmax(-1).tolist()
            for row, branch, token in zip(written, branches, chosen, strict=True):
                if len(row) < len(branch.answer):
                    row.append(token if branch.weights[len(row)] else branch.answer[len(row)])
            ids = torch.tensor([row[-1:] for row in written])
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
    return written


def _count_given(branch: Branch) -> int:
    """Number of the answer's first tokens that are given."""
    return next(index for index, weight in enumerate(branch.weights) if weight)


@dataclass(frozen=True)
class Reading:
    """What a model concludes on held-out lessons, generating greedily.

    Attributes:
        items: Number of conclusions.
        follow: How many follow the block, or the list.
        groups: Number of points, or count -> (items, follow).
        evidence: (values, how many of them are right): the evidence of each point, after true tokens.
        given_evidence: How many conclusions are right after the true evidence.
    """

    items: int
    follow: int
    groups: dict[int, tuple[int, int]]
    evidence: tuple[int, int] = (0, 0)
    given_evidence: int = 0

    @property
    def share(self) -> float:
        """Share of conclusions that follow."""
        return self.follow / self.items


def evaluate(
    model: Any,
    writer: Writer,
    sequences: Sequence[LessonIds],
    bf16: bool,
    *,
    teacher_forced: bool = False,
    chunk: int = 50,
) -> Reading:
    """Generate the answers of sequences with one branch each, and compare their conclusions.

    Args:
        model: The language model.
        writer: Of its lessons.
        sequences: The lessons.
        bf16: Compute in bfloat16.
        teacher_forced: Also measure the evidence, given the right tokens before it.
        chunk: Number of sequences in a batch.
    """
    model.eval()
    length = 2 if writer.setting.task == "counting" else 1  # of the conclusion, the last tokens
    groups: dict[int, list[bool]] = {}
    values, right_values, given = 0, 0, 0
    for start in range(0, len(sequences), chunk):
        part = sequences[start : start + chunk]
        for sequence, written in zip(part, generate(model, part, bf16), strict=True):
            branch = sequence.branches[0]
            groups.setdefault(branch.size, []).append(written[-length:] == branch.answer[-length:])
        if teacher_forced:
            for branch, correct in zip(
                [sequence.branches[0] for sequence in part], check_tokens(model, part, bf16), strict=True
            ):
                runs = find_values(branch, length)
                values += len(runs)
                right_values += sum(all(correct[first:last]) for first, last in runs)
                given += all(correct[-length:])
    model.train()
    counts = {size: (len(rights), sum(rights)) for size, rights in sorted(groups.items())}
    items, follow = (sum(column) for column in zip(*counts.values(), strict=True))
    return Reading(items, follow, counts, (values, right_values), given)


def find_values(branch: Branch, length: int) -> list[tuple[int, int]]:
    """First and last (exclusive) index of each run of supervised tokens before the conclusion of `length` tokens."""
    runs, first = [], None
    for index, weight in enumerate([*branch.weights[:-length], 0.0]):
        if weight and first is None:
            first = index
        elif not weight and first is not None:
            runs.append((first, index))
            first = None
    return runs


@torch.no_grad()
def check_tokens(model: Any, sequences: Sequence[LessonIds], bf16: bool) -> list[list[bool]]:
    """For each id of the answers whether it is given, or the most likely after the true ids; of one branch each."""
    batch = make_batch(sequences).to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        hidden = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        right = iter((model.lm_head(hidden[batch.rows, batch.columns]).argmax(-1) == batch.targets).tolist())
    return [[next(right) if weight else True for weight in sequence.branches[0].weights] for sequence in sequences]


@dataclass
class Outcome:
    """The result of a setting.

    Attributes:
        curve: (updates, share of conclusions that follow) of the held-out lessons that are evaluated on the way.
        reached: Updates after which the share on these was 90 % or more; None within the budget.
        updates: Updates that were made.
        final: The reading of the other held-out lessons.
        loss: Mean loss of the last 20 updates.
        seconds: Processor seconds.
    """

    curve: list[tuple[int, float]]
    reached: int | None
    updates: int
    final: Reading
    loss: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def train(
    setting: Setting,
    data: Data,
    base: Path,
    *,
    eval_steps: int = 100,
    target: float = 0.9,
    bf16: bool = False,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> Outcome:
    """Train one setting until `target` of the held-out conclusions follow the block, or its updates are made.

    The first `VALIDATION` held-out lessons decide when training ends; `Outcome.final` is measured on the others.
    """
    started = time.process_time()
    torch.manual_seed(setting.seed)
    model, writer = build_model(setting, data, base)
    model.to(device)
    validation, test = make_heldout(writer, data)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=setting.learning_rate, betas=(0.9, 0.98))
    rng = np.random.default_rng([setting.seed, 1])
    curve: list[tuple[int, float]] = []
    losses: list[float] = []
    reached = None
    model.train()
    for step in range(1, setting.updates + 1):
        for group in optimizer.param_groups:
            group["lr"] = setting.learning_rate * min(1.0, step / 50)
        loss = compute_loss(model, writer, draw_batch(writer, data, rng, step), data.train.soft, bf16)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"the loss is {losses[-1]} after {step} updates of {setting}")
        if step % eval_steps == 0 or step == setting.updates:
            curve.append((step, evaluate(model, writer, validation, bf16).share))
            seconds = time.process_time() - started
            report(f"{step:5d} loss {np.mean(losses[-20:]):.3f} follow {curve[-1][1]:.3f}, {seconds:.0f} s")
            if curve[-1][1] >= target:
                reached = step
                break
    final = evaluate(model, writer, test, bf16, teacher_forced=True)
    loss_ = float(np.mean(losses[-20:]))
    return Outcome(curve, reached, step, final, loss_, round(time.process_time() - started, 1))


def make_heldout(writer: Writer, data: Data) -> tuple[list[LessonIds], list[LessonIds]]:
    """Held-out sequences for the curve, and others for the result."""
    if writer.setting.task == "counting":
        rng = np.random.default_rng(99)
        validation = [writer.write_counting(count, rng) for count in range(1, counting.MAX_COUNT + 1) for _ in range(5)]
        return validation, [writer.write_counting(count, rng) for count in (5, 10, 15) for _ in range(100)]
    rng = np.random.default_rng(98)
    everything = [writer.write_points(data.heldout, block, 1, rng)[0] for block in range(len(data.heldout))]
    return everything[:VALIDATION], everything[VALIDATION:]
