"""The pipeline that answers questions about images, with decoded depth maps and boxes, and its settings."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.config import read_config
from perceptok.data import PROMPTS, TokenReading
from perceptok.decoding import (
    GrammarConfig,
    PerceptionLogitsProcessor,
    find_eos_token_ids,
    find_pad_token_id,
    generate_perception,
)
from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, ConfigError, InferenceError
from perceptok.images import ImageSource, open_image
from perceptok.jobs import stamp_folder
from perceptok.llava.adapter_record import ADAPTER_FILE, find_adapter_folder
from perceptok.llava.framing import FrameRule
from perceptok.llava.inference.answer import PerceptionAnswer, parse_answer
from perceptok.llava.inference.batch_consistency import BatchConsistency, Consistency
from perceptok.llava.inference.questions import (
    Ask,
    Markers,
    Request,
    build_prompt,
    check_ask,
    check_request,
    encode_prompts,
    word_question,
)
from perceptok.llava.inference.rows import AnswerRow, RowSampler, RowWatcher
from perceptok.llava.inference.streaming import Update, UpdateReader, stream_updates
from perceptok.llava.loading import check_parts, get_perception_settings, load_llava, resolve_frame
from perceptok.llava.saving import load_adapter, load_saved_codec
from perceptok.precision import choose_loading_dtype
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import MANIFEST, PerceptionVocabulary

if TYPE_CHECKING:
    from perceptok.llava.loading import Bits

__all__ = ["InferenceConfig", "PerceptionPipeline", "PreparedBatch"]

_MAX_CONSTRAINTS = 16
"""Maximum number of grammars whose constraints a pipeline keeps."""

Question: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or a conversation as a list of messages."""


@dataclass(frozen=True)
class InferenceConfig:
    """Settings of `PerceptionPipeline`; by default decoding is greedy and constrained to the grammar.

    Attributes:
        ask: How questions are worded: "published" as they are; "direct", "cot", "depth" or "boxes" as `build_question`
            words those of training. With "depth" the answer is the nearest marker on the decoded map, with "boxes" the
            number of boxes; neither forces a block or a box.
        prompts: Name of the templates that the model was trained with, such as "aurora".
        constraints: Constrain answers to the grammar: no malformed block or box, no perception token outside them.
        grammar: What an answer may contain; None allows depth blocks and boxes where the model has the tokens, and at
            most one block, since a question is about one image.
        force_block: The answer begins with a depth block ("first") or contains one ("somewhere").
        consistency: Constrain the conclusion, as AURORA words it, to the answer's own evidence: the "count" of boxes,
            the numbers of a "list" of boxes, the nearest "marker" of those given with the question.
        max_new_tokens: Maximum number of tokens of an answer; a depth block takes 102. A block or box that would not
            fit is not begun.
        batch_size: Questions per batch.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Nucleus sampling: the smallest set of most likely tokens with this total probability, in (0, 1].
        seed: Seed of sampling. Each question of a call draws from a generator of its own, seeded by this and by its
            number in the call, so that its answer depends neither on batches nor on threads.
        skip_forced: Skip the model's forward pass for tokens that the grammar determines.

    Raises:
        ConfigError: A value out of range, an unknown `ask` or `prompts`, or `force_block` without constraints.
    """

    ask: Ask = "published"
    prompts: str = "aurora"
    constraints: bool = True
    grammar: GrammarConfig | None = None
    force_block: Literal["first", "somewhere"] | None = None
    consistency: tuple[Consistency, ...] = ()
    max_new_tokens: int = 512
    batch_size: int = 8
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    skip_forced: bool = True

    def __post_init__(self) -> None:
        check_ask(self.ask)
        if self.prompts not in PROMPTS:
            raise ConfigError(f"prompts must be one of {', '.join(PROMPTS)}; got {self.prompts!r}")
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be 0 (greedy decoding) or above; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be a probability above 0 and up to 1; got {self.top_p}")
        unknown = set(self.consistency) - set(get_args(Consistency))
        if unknown:
            raise ConfigError(
                f"consistency must be among {', '.join(get_args(Consistency))}; got {', '.join(sorted(unknown))}"
            )
        if self.force_block is not None and not self.constraints:
            raise ConfigError("force_block is a constraint; it needs constraints: true")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> InferenceConfig:
        """Read settings from YAML or JSON.

        Raises:
            ConfigError: The file cannot be read, or holds unknown keys or values out of range.
        """
        return read_config(cls, path)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return {**asdict(self), "consistency": list(self.consistency)}

    def override(self, changes: Mapping[str, Any]) -> InferenceConfig:
        """The settings with some of them changed; raises ConfigError for an unknown one or a value out of range."""
        try:
            return replace(self, **changes)
        except TypeError as error:
            known = ", ".join(self.to_dict())
            raise ConfigError(f"unknown settings: {', '.join(changes)}; known are {known}") from error

    def resolve_grammar(self, depth: bool, boxes: Literal["aurora", "compact"] | None) -> GrammarConfig:
        """The grammar for a model with or without depth tokens, and with boxes in this notation or none."""
        grammar = self.grammar or GrammarConfig(depth=depth, boxes=boxes, max_blocks=1 if depth else None)
        return replace(grammar, force_block=self.force_block) if self.force_block else grammar


class PerceptionPipeline:
    """Answers questions about images with a model that writes perception tokens.

    Args:
        model: A multimodal model of transformers, extended with the vocabulary.
        processor: The model's processor.
        vocab: Perception tokens of the model.
        codec: The depth codec that the model was trained with; by default the shipped one.
        frame: How images are framed: "squash" (AURORA's), "letterbox", "processor", or a `FrameRule`; by default as the
            model's config records, else "squash".
        config: The settings; each call may override some.
        system: The system text that the model was trained with; None for none.
        box_codec: Decodes boxes; by default an edge is decoded to the centre of its bin.

    Raises:
        VocabularyError: Model, tokenizer, vocabulary and codec do not fit together.
        ConfigError: An unknown frame, or another than the model was trained with.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        vocab: PerceptionVocabulary,
        *,
        codec: DepthCodec | None = None,
        frame: str | FrameRule | None = None,
        config: InferenceConfig | None = None,
        system: str | None = None,
        box_codec: BoxCodec | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.vocab = vocab
        self.codec = codec or DepthCodec.from_pretrained()
        self.frame = resolve_frame(model, frame)
        self.config = config or InferenceConfig()
        self.system = system
        self.stamps: list[Any] = []
        self.box_codec = box_codec or BoxCodec(decode="center")
        self._constraints: dict[Any, PerceptionLogitsProcessor] = {}
        self._lock = threading.Lock()
        # Padding changes the state of a fast tokenizer, which fails while another thread decodes with it.
        self.reading_tokenizer = copy.deepcopy(processor.tokenizer)
        check_parts(model, processor.tokenizer, vocab, self.codec)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        codec: DepthCodec | None = None,
        bits: Bits | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        revision: str | None = None,
        config: InferenceConfig | None = None,
    ) -> Self:
        """Load an adapter or a merged model, with its token rows, manifest, codec and frame.

        Args:
            folder: A folder that `save_adapter`, `merge_adapter` or a finished run of `finetune` wrote, or the id of
                such a repository on the Hub, as text (`owner/name`).
            base: The adapter's base, if it is not where it was at training.
            codec: Used instead of the saved copy; must be the same codec.
            bits: Quantise the language model to 4 or 8 bits with bitsandbytes.
            dtype: Data type of the weights; "auto" is that of the checkpoint, or float32 (on CUDA float16) where the
                device computes it slowly, such as bfloat16 on a CPU without AMX.
            device: Device of the model and the codec.
            revision: Of a repository on the Hub.
            config: The settings.

        Raises:
            CheckpointError: The folder does not exist, is damaged, or its model was not trained on perception tokens;
                or a repository cannot be downloaded.
            VocabularyError: Model, tokenizer, manifest and codec do not fit together.
        """
        path = find_adapter_folder(folder, revision)
        if (path / ADAPTER_FILE).is_file():
            loaded = load_adapter(path, base=base, codec=codec, bits=bits, dtype=dtype, device=device)
            model, processor, vocab, codec = loaded.model, loaded.processor, loaded.vocab, loaded.codec
            frame, system = loaded.frame, loaded.system
        else:
            if not (path / MANIFEST).is_file():
                raise CheckpointError(
                    f"{folder} holds neither {ADAPTER_FILE} nor {MANIFEST}: the model was not trained on perception "
                    "tokens; name a folder that `perceptok llava train` or `merge` wrote"
                )
            codec = codec or load_saved_codec(path)
            model, processor, vocab = load_llava(path, codec=codec, bits=bits, dtype=dtype, device=device)  # type: ignore[assignment]
            frame, system = resolve_frame(model, None), get_perception_settings(model).get("system")
        if dtype == "auto" and bits is None:
            model.to(choose_loading_dtype(model.dtype, device))
        codec = (codec or DepthCodec.from_pretrained()).to(device)
        pipe = cls(model, processor, vocab, codec=codec, frame=frame, config=config, system=system)
        source = getattr(model.config, "name_or_path", "")
        pipe.stamps = [stamp_folder(path), stamp_folder(source) if source else []]
        return pipe

    @overload
    def __call__(self, images: ImageSource, questions: str = ..., **changes: Any) -> PerceptionAnswer: ...
    @overload
    def __call__(
        self, images: ImageSource | Sequence[Any], questions: str | Sequence[Any] = ..., **changes: Any
    ) -> Any: ...
    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource | Sequence[ImageSource]],
        questions: Question | Sequence[Question] = "",
        *,
        choices: Sequence[str] = (),
        markers: Markers | None = None,
        plural: str | None = None,
        tokens: TokenReading = "text",
        **changes: Any,
    ) -> PerceptionAnswer | list[PerceptionAnswer]:
        """Answer questions about images.

        Args:
            images: A file, bytes, a Pillow image or an array; or a list of them, in which a list is the several images
                of one question.
            questions: One for all images, or a list: one for each image, or several for one image. A question is a
                text (empty for the trained question of the setting `ask`), or a conversation: a list of messages as
                `Request.from_messages` takes it.
            choices: The allowed answers, such as ("A", "B"); empty for any.
            markers: Letter -> x, y in the first image's pixels, of points that the questions are about.
            plural: What is counted, such as "dogs", where `ask` needs it and the questions do not say it.
            tokens: Whether perception tokens in the questions, such as `(<PIXEL_3>,...)`, are "meant" or "text".
            **changes: Settings of `InferenceConfig` for this call.

        Returns:
            One answer for one image (or one list of a conversation's images) and one question, else a list in their
            order.

        Raises:
            ImageError: An image cannot be read.
            InferenceError: Images and questions do not pair, a question, choice or marker is not valid, or the prompt
                is as long as the model's context.
            ConfigError: An unknown setting, or a value out of range.
            ConstraintError: `max_new_tokens` is too small for what the grammar requires.
        """
        is_list = isinstance(images, list | tuple)
        is_one_question = isinstance(questions, str) or _is_conversation(questions)
        texts: list[Any] = [questions] if is_one_question else list(questions)
        sources: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        if len(sources) == 1:
            sources *= len(texts)
        if len(texts) == 1:
            texts *= len(sources)
        if len(sources) != len(texts):
            raise InferenceError(
                f"{len(sources)} images and {len(texts)} questions do not pair; pass one of either, or equally many"
            )
        opened: dict[int, Image.Image] = {}  # an image with several questions is opened once
        for source in (source for group in sources for source in _list_images(group)):
            if id(source) not in opened:
                opened[id(source)] = open_image(source)
        fields: dict[str, Any] = {
            "choices": tuple(choices), "markers": markers or {}, "plural": plural, "tokens": tokens,
        }  # fmt: skip
        requests = [
            _make_request([opened[id(source)] for source in _list_images(group)], text, fields)
            for group, text in zip(sources, texts, strict=True)
        ]
        answers = list(self.answers(requests, **changes))
        return answers[0] if is_one_question and not is_list else answers

    def answers(self, requests: Sequence[Request], **changes: Any) -> Iterator[PerceptionAnswer]:
        """Yield answers in the order of the requests, batch by batch; raises the errors of `__call__`."""
        config = self.config.override(changes)
        for start in range(0, len(requests), config.batch_size):
            yield from self._answer_batch(requests[start : start + config.batch_size], config, start)

    def _answer_batch(
        self, requests: Sequence[Request], config: InferenceConfig, start: int
    ) -> Iterator[PerceptionAnswer]:
        """The answers of one batch, whose first question has the number `start` in its call."""
        batch = self.prepare_batch(requests, config)
        if batch.budget < config.max_new_tokens and len(requests) > 1:
            # The longest prompt bounds the budget of a batch; alone, a shorter one leaves more tokens for its answer.
            for index, request in enumerate(requests):
                yield from self._answer_batch([request], config, start + index)
            return
        rows = [_make_row(config, start + index) for index in range(len(requests))]
        self.generate_batch(batch, rows)
        for index, row in enumerate(rows):
            yield self.parse_row(batch, index, row.ids)

    def stream(
        self,
        images: ImageSource | Sequence[ImageSource],
        question: Question = "",
        *,
        choices: Sequence[str] = (),
        markers: Markers | None = None,
        plural: str | None = None,
        tokens: TokenReading = "text",
        **changes: Any,
    ) -> Iterator[Update]:
        """Yield updates while the model generates: text, rows of the depth map, boxes, and finally the answer.

        The model runs in a separate thread; closing the generator stops it at its next token. Errors are those of
        `__call__`.

        Args:
            images: A file, bytes, a Pillow image or an array (H, W, 3) uint8; a list of them is of this question.
            question: The question, or a conversation: a list of messages as `Request.from_messages` takes it.
            choices: The allowed answers, such as ("A", "B"); empty for any.
            markers: Letter -> x, y in the first image's pixels, of points that the question is about.
            plural: What is counted, such as "dogs", where `ask` needs it and the question does not say it.
            tokens: Whether perception tokens in the question are "meant" or "text".
            **changes: Settings of `InferenceConfig` for this call.
        """
        opened = [open_image(source) for source in _list_images(images)]
        fields = {"choices": tuple(choices), "markers": markers or {}, "plural": plural, "tokens": tokens}
        yield from self.stream_request(_make_request(opened, question, fields), **changes)

    def stream_request(self, request: Request, **changes: Any) -> Iterator[Update]:
        """Yield updates for a request, as `stream`."""
        config = self.config.override(changes)
        batch = self.prepare_batch([request], config)

        def run(watch: Callable[[int], bool]) -> PerceptionAnswer:
            row = _make_row(config, 0, watch)
            self.generate_batch(batch, [row])
            return self.parse_row(batch, 0, row.ids)

        yield from stream_updates(run, self.make_reader(batch.frames[0]))

    def make_reader(self, frame: ImageFrame, max_side: int | None = None) -> UpdateReader:
        """A reader that converts the token ids of an answer to updates.

        Args:
            frame: The image's frame.
            max_side: Maximum side of its depth maps in pixels; None for the image's size, 0 decodes no maps.
        """
        ends = frozenset(self.end_ids)
        return UpdateReader(self.vocab, self.reading_tokenizer, ends, self.codec, frame, self.box_codec, max_side)

    def prepare_inputs(
        self,
        images: ImageSource | Sequence[ImageSource],
        question: Question,
        *,
        tokens: TokenReading = "text",
    ) -> dict[str, Any]:
        """Inputs of the model for one question, up to where the answer begins, on the model's device.

        Args:
            images: An image, or a list of the question's images.
            question: The question, or a conversation.
            tokens: Whether perception tokens in the question are "meant" or "text".

        Returns:
            `input_ids` and `attention_mask` (1, T) int64, `pixel_values` and whatever else the processor makes.

        Raises:
            ImageError: An image cannot be read.
            InferenceError: The question is empty or fills the model's context, or has another number of images.
        """
        opened = [open_image(source) for source in _list_images(images)]
        return self.prepare_requests([_make_request(opened, question, {"tokens": tokens})])

    def prepare_requests(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Inputs of the model for a batch of requests, padded on the left, as `prepare_inputs`."""
        return self.prepare_batch(requests, self.config).inputs

    def prepare_batch(self, requests: Sequence[Request], config: InferenceConfig) -> PreparedBatch:
        """Frame the images and encode the prompts of questions that are answered together.

        Raises:
            InferenceError: A question, choice or marker is not valid, or a prompt is as long as the model's context.
        """
        for request in requests:
            check_request(request)
        frames = [self.frame.make_frame(request.images[0].size, self.processor) for request in requests]
        questions = [
            word_question(request, config.ask, size=self.frame.size, prompts=PROMPTS[config.prompts])
            for request in requests
        ]
        prompts = [
            build_prompt(
                self.processor,
                question,
                self.vocab,
                self.system if request.system is None else request.system,
                history=request.history,
                images=len(request.images),
                tokens=request.tokens,
            )
            for request, question in zip(requests, questions, strict=True)
        ]
        images = [[self.frame.apply(image) for image in request.images] for request in requests]
        with self._lock:
            inputs = encode_prompts(self.processor, prompts, images)
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                dtype = self.model.dtype if value.is_floating_point() else value.dtype
                inputs[name] = value.to(self.model.device, dtype)
        length = inputs["input_ids"].shape[1]
        consistency = None
        if config.consistency:
            consistency = BatchConsistency(
                config.consistency,
                self.processor.tokenizer,
                self.vocab,
                length,
                [request.markers for request in requests],
                frames,
                lambda codes: np.asarray(self.codec.decode(codes)[0]),
            )
        budget = min(config.max_new_tokens, self._remaining_context(length))
        return PreparedBatch(requests, config, inputs, questions, frames, length, budget, consistency)

    def _remaining_context(self, length: int) -> int:
        """Number of tokens that the model's context leaves for an answer."""
        text = self.model.config.get_text_config()
        context = getattr(text, "max_position_embeddings", None)
        if context is None:
            return 2**31
        if length >= context:
            raise InferenceError(
                f"the prompt has {length} tokens, image included, and the model's context {context}: no tokens are "
                "left for an answer; shorten the question"
            )
        return int(context) - length

    def generate_batch(self, batch: PreparedBatch, rows: Sequence[AnswerRow]) -> None:
        """Generate the answers of a batch; each row collects its ids.

        Args:
            batch: The prepared questions.
            rows: How each of them is sampled, watched and stopped.

        Raises:
            ConstraintError: The token budget is too small for what the grammar requires, or the checkpoint's generation
                config has a setting that the grammar cannot hold to, such as `max_time`.
        """
        config, ids = batch.config, batch.inputs["input_ids"]
        padding = find_pad_token_id(self.model, self.processor.tokenizer)
        settings = _build_generation_settings(batch.budget, self.end_ids, padding)
        extra: dict[str, Any] = {"logits_processor": []}
        if config.constraints:
            running = GenerationConfig(**settings)  # type: ignore[no-untyped-call]
            constraint = self._get_constraint(config)
            extra["logits_processor"].append(constraint.for_prompt(ids, generation_config=running, model=self.model))
            extra |= {"custom_generate": generate_perception} if config.skip_forced else {}
        if batch.consistency is not None:
            extra["logits_processor"].append(batch.consistency)
        extra["logits_processor"].append(RowSampler(rows, batch.length))
        extra["stopping_criteria"] = [RowWatcher(rows, batch.length, set(self.end_ids))]
        with torch.inference_mode():
            self.model.generate(**batch.inputs, **settings, **extra)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return find_eos_token_ids(self.model, self.processor.tokenizer)

    def _get_constraint(self, config: InferenceConfig) -> PerceptionLogitsProcessor:
        tokenizer = self.processor.tokenizer
        grammar = config.resolve_grammar(self.vocab.has(DEPTH), "aurora" if self.vocab.has(PIXEL) else None)
        with self._lock:
            if grammar not in self._constraints:
                if len(self._constraints) == _MAX_CONSTRAINTS:  # clients of a server may name any number of grammars
                    self._constraints.pop(next(iter(self._constraints)))
                self._constraints[grammar] = PerceptionLogitsProcessor(
                    self.vocab, grammar, tokenizer=tokenizer, eos_token_id=self.end_ids or None
                )
            return self._constraints[grammar]

    def parse_row(
        self, batch: PreparedBatch, index: int, ids: Sequence[int], *, ended: bool = False
    ) -> PerceptionAnswer:
        """Parse the ids of one row of a batch.

        Args:
            batch: The batch.
            index: The row.
            ids: The generated ids, with or without the end of sequence.
            ended: Whether the answer is complete without an end of sequence.
        """
        request = batch.requests[index]
        has_end = bool(ids) and ids[-1] in self.end_ids
        answer = parse_answer(
            ids[:-1] if has_end else ids,
            ended=ended or has_end,
            question=batch.questions[index],
            ask=batch.config.ask,
            image=request.images[0],
            frame=batch.frames[index],
            vocab=self.vocab,
            tokenizer=self.reading_tokenizer,
            codec=self.codec,
            box_codec=self.box_codec,
            constrained=batch.config.constraints,
            choices=request.choices,
            markers=request.markers,
            name=request.name,
        )
        return answer if batch.consistency is None else replace(answer, overruled=batch.consistency.overruled(index))


def _is_conversation(question: object) -> bool:
    return isinstance(question, list | tuple) and bool(question) and isinstance(question[0], Mapping)


def _list_images(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]


def _make_request(images: Sequence[Image.Image], question: Question, fields: Mapping[str, Any]) -> Request:
    if _is_conversation(question):
        return Request.from_messages(question, images, **fields)  # type: ignore[arg-type]
    return Request(tuple(images), question, **fields)  # type: ignore[arg-type]


class PreparedBatch(NamedTuple):
    """Questions that are answered together, ready for the model.

    Attributes:
        requests: The questions.
        config: Their settings.
        inputs: Inputs of the model's `generate`, on its device; prompts are padded on the left.
        questions: The questions as they are worded.
        frames: Maps each image to the model's input.
        length: Number of tokens of the padded prompts.
        budget: Maximum number of tokens of an answer: that of the settings, or what the context leaves.
        consistency: Constrains conclusions to evidence, where the settings ask for it.
    """

    requests: Sequence[Request]
    config: InferenceConfig
    inputs: dict[str, Any]
    questions: list[str]
    frames: list[ImageFrame]
    length: int
    budget: int
    consistency: BatchConsistency | None

    def count_prompt_tokens(self, index: int) -> int:
        """Number of tokens of a row's prompt, without padding."""
        return int(self.inputs["attention_mask"][index].sum())


def _make_row(config: InferenceConfig, index: int, watch: Callable[[int], bool] | None = None) -> AnswerRow:
    """The row of question number `index` of a call with these settings."""
    return AnswerRow(config.temperature, config.top_p, config.seed, index, watch=watch)


def _build_generation_settings(budget: int, ends: tuple[int, ...], padding: int) -> dict[str, Any]:
    """All decoding arguments of `generate`, which overrule the checkpoint's generation_config.

    A repetition penalty of the checkpoint, for example, would push a depth map away from its own codes. Search is
    greedy: rows that sample choose their tokens in `RowSampler`.

    Args:
        budget: Maximum number of new tokens.
        ends: Ids that end a sequence; empty for none.
        padding: Id of the padding token.
    """
    return {
        "max_new_tokens": budget,
        "min_length": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "do_sample": False,
        "top_k": 50,  # transformers warns of sampling settings other than its defaults
        "top_p": 1.0,
        "temperature": 1.0,
        "eos_token_id": list(ends) or None,
        "pad_token_id": padding,
    }
