"""`PerceptionPipeline`: images and questions in, answers with decoded evidence out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor

from perceptok.boxes import BoxCodec, ImageFrame
from perceptok.decoding import (
    CountConsistency,
    ListConsistency,
    MarkerConsistency,
    NumberIds,
    PerceptionLogitsProcessor,
    find_eos_token_ids,
    find_number_ids,
    find_pad_token_id,
    generate_perception,
)
from perceptok.depth import DepthCodec
from perceptok.errors import CheckpointError, ConfigError, InferenceError
from perceptok.images import ImageSource, open_image
from perceptok.llava.framing import FrameRule
from perceptok.llava.inference.answer import PerceptionAnswer, read_answer_spans, require_choices
from perceptok.llava.inference.config import InferenceConfig, generation_settings, seeded
from perceptok.llava.inference.streaming import Update, stream_updates
from perceptok.llava.loading import check_parts, encode_inputs, get_perception_settings, load_llava, suffix_ids
from perceptok.llava.saving import ADAPTER_FILE, find_adapter_folder, load_adapter
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import MANIFEST, PerceptionVocabulary, sanitize_text

if TYPE_CHECKING:
    from transformers import StoppingCriteria

    from perceptok.llava.inference.config import Consistency
    from perceptok.llava.loading import Bits

__all__ = ["IMAGE", "EvidenceRows", "PerceptionPipeline", "Request", "chat_prompt", "ids_after", "prompt_inputs"]


_COUNT_CUES = (("masks,", " we conclude there are"), ("image.", " We conclude there are"))
_LIST_CUE = ("cars:\n", "Bounding box")
_MARKER_CUE = ("map,", " the answer is that point")


class EvidenceRows(LogitsProcessor):
    """One set of consistency processors for each row of a batch, whose questions differ.

    Args:
        kinds: What is held: "count", "list", "marker".
        tokenizer: The model's.
        vocab: Its perception tokens.
        prompt_length: Ids of the prompts.
        markers: Of each row: letter -> x, y in its image's pixels; a row without is not held by "marker".
        frames: How each row's image lay in what the model saw.
        nearness: Codes (10, 10) -> a map (S, S) of the frame.

    Raises:
        InferenceError: A marker outside the frame, or a tokenizer that joins a cue with what follows.
    """

    def __init__(
        self,
        kinds: Sequence[Consistency],
        tokenizer: Any,
        vocab: PerceptionVocabulary,
        prompt_length: int,
        markers: Sequence[Mapping[str, tuple[float, float]]],
        frames: Sequence[ImageFrame],
        nearness: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        digits = _digits_of(tokenizer) if "count" in kinds else None
        self.rows: list[list[CountConsistency | MarkerConsistency]] = []
        for places, frame in zip(markers, frames, strict=True):
            row: list[CountConsistency | MarkerConsistency] = []
            if "count" in kinds:
                row += [_count(tokenizer, vocab, *cue, prompt_length, digits) for cue in _COUNT_CUES]
            if "list" in kinds:
                row.append(_numbers(tokenizer, vocab, prompt_length))
            if "marker" in kinds and places:
                row.append(_nearest(tokenizer, vocab, places, frame, nearness, prompt_length))
            self.rows.append(row)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V), each row held by its own."""
        held = scores
        for number, row in enumerate(self.rows):
            for one in row:
                ids, before = input_ids[number : number + 1], held[number : number + 1]
                after = one(ids, before)
                if after is not before:
                    held = held.clone() if held is scores else held
                    held[number] = after[0]
        return held

    def overruled(self, row: int) -> int:
        """How often the evidence of a row's answer said something else than the model would have."""
        return sum(one.interventions.changed for one in self.rows[row])


def ids_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """Ids of a text where it follows another; raises InferenceError where a token spans the border."""
    first, both = (list(tokenizer.encode(one, add_special_tokens=False)) for one in (before, before + text))
    if both[: len(first)] != first:
        raise InferenceError(f"the tokenizer joins {text!r} with {before!r} before it; leave consistency out")
    return both[len(first) :]


def _count(
    tokenizer: Any, vocab: PerceptionVocabulary, before: str, cue: str, prompt_length: int, digits: NumberIds | None
) -> CountConsistency:
    return CountConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        lambda number: ids_after(tokenizer, before + cue, f" {number}"),
        prompt_length=prompt_length,
        digits=digits,
    )


_known_digits: WeakKeyDictionary[Any, NumberIds] = WeakKeyDictionary()


def _digits_of(tokenizer: Any) -> NumberIds:
    """`find_number_ids`, looked up once for each tokenizer: every batch asks for them."""
    if tokenizer not in _known_digits:
        _known_digits[tokenizer] = find_number_ids(tokenizer)
    return _known_digits[tokenizer]


def _numbers(tokenizer: Any, vocab: PerceptionVocabulary, prompt_length: int) -> ListConsistency:
    before, cue = _LIST_CUE
    return ListConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        lambda number: ids_after(tokenizer, before + cue, f" {number}:"),
        prompt_length=prompt_length,
    )


def _nearest(
    tokenizer: Any,
    vocab: PerceptionVocabulary,
    places: Mapping[str, tuple[float, float]],
    frame: ImageFrame,
    nearness: Callable[[np.ndarray], np.ndarray],
    prompt_length: int,
) -> MarkerConsistency:
    before, cue = _MARKER_CUE
    shares = frame.to_frame(np.array(list(places.values()), dtype=np.float64)) / frame.size
    outside = [letter for letter, share in zip(places, shares, strict=True) if (share < 0).any() or (share > 1).any()]
    if outside:
        raise InferenceError(f"marker {outside[0]} at {places[outside[0]]} lies outside what the model sees")
    inner = np.nextafter(1.0, 0.0)  # the right and bottom edges belong to the last pixels
    return MarkerConsistency(
        vocab,
        ids_after(tokenizer, before, cue),
        {letter: ids_after(tokenizer, before + cue, f" {letter}") for letter in places},
        {letter: (min(float(x), inner), min(float(y), inner)) for letter, (x, y) in zip(places, shares, strict=True)},
        nearness,
        prompt_length=prompt_length,
    )


IMAGE = "<image>"
"""Where the picture stands in a question; a question without it gets the picture first."""


def chat_prompt(processor: Any, question: str, vocab: PerceptionVocabulary) -> str:
    """The text of a prompt with one picture and one question, up to where the answer begins.

    Perception tokens and the tokenizer's control tokens that a user typed are kept from becoming tokens.

    Args:
        processor: The model's; its chat template, or LLaVA-1.5's `USER: ... ASSISTANT:` where it has none.
        question: May hold `<image>` once, where the picture shall stand.
        vocab: The perception tokens.

    Raises:
        InferenceError: An empty question, `<image>` more than once, or a template that leaves the picture out.
    """
    if not isinstance(question, str) or not question.strip():
        raise InferenceError(f"a question is a text that is not empty; got {question!r}")
    before, image, after = question.partition(IMAGE)
    if IMAGE in after:
        count = question.count(IMAGE)
        raise InferenceError(f"a question has one picture; this one says {IMAGE} {count} times: ask of each by itself")
    parts = [before, after] if image else ["", question]
    said = [_harmless(part.strip("\n") if image else part, processor.tokenizer, vocab) for part in parts]
    content = [{"type": "text", "text": said[0]}] if said[0].strip() else []
    content += [{"type": "image"}, *([{"type": "text", "text": said[1]}] if said[1].strip() else [])]
    token = str(getattr(processor, "image_token", None) or IMAGE)
    if getattr(processor, "chat_template", None):
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        texts = [part["text"] for part in content if part["type"] == "text"]
        text = f"USER: {token}\n{' '.join(texts)} ASSISTANT:"
    if str(text).count(token) != 1:
        raise InferenceError(
            f"the model's chat template writes the picture's place, {token}, {str(text).count(token)} times; expected "
            "once: look at processor.chat_template"
        )
    return str(text)


def prompt_inputs(processor: Any, prompts: Sequence[str], pictures: Sequence[Any]) -> dict[str, Any]:
    """What the model's `generate` takes: prompts of any lengths padded on the left, each with its picture.

    Raises:
        InferenceError: The processor refuses them; the message is its own.
    """
    suffixes = [suffix_ids(processor, prompt) for prompt in prompts]
    try:
        inputs = encode_inputs(processor, prompts, [[picture] for picture in pictures], suffixes, padding_side="left")
    except (ValueError, TypeError, RuntimeError) as error:
        raise InferenceError(f"{type(processor).__name__} takes no such prompts and pictures ({error})") from error
    for ids, suffix in zip(inputs["input_ids"].numpy(), suffixes, strict=True):
        if not np.array_equal(ids[len(ids) - len(suffix) :], suffix):
            raise InferenceError(
                f"{type(processor).__name__} tokenises a prompt otherwise with pictures than without, so that it is "
                "not the one of training; its template and tokenizer contradict each other"
            )
    return inputs


def _harmless(text: str, tokenizer: Any, vocab: PerceptionVocabulary) -> str:
    r"""Text in which no token stands that only we or the template may write: `</s>` becomes `<\/s>`."""
    control = {str(one) for one in getattr(tokenizer, "all_special_tokens", ())}
    control |= {one.content for one in getattr(tokenizer, "added_tokens_decoder", {}).values() if one.special}
    named = sorted((one for one in control if len(one) > 1 and not one.isspace()), key=len, reverse=True)
    kept = sanitize_text(text, vocab)
    if not named or not any(one in kept for one in named):
        return kept
    return re.sub("|".join(map(re.escape, named)), lambda found: f"{found[0][0]}\\{found[0][1:]}", kept)


Markers = Mapping[str, tuple[float, float]]


class Request(NamedTuple):
    """One question about one image.

    Attributes:
        image: In RGB; see `open_image`.
        question: In words; may hold `<image>` once.
        choices: What the answer may be; empty for anything.
        markers: Letter -> x, y in the image's pixels, of points that the question is about.
        name: For files and pages.
    """

    image: Image.Image
    question: str
    choices: tuple[str, ...] = ()
    markers: Markers = {}  # noqa: RUF012 - never changed
    name: str = ""


class PerceptionPipeline:
    """A model that writes perception tokens, asked about images.

    Args:
        model: A multimodal model of transformers, extended with the vocabulary.
        processor: Its processor.
        vocab: Its perception tokens.
        codec: Whose codes the DEPTH tokens mean; without it the shipped one.
        frame: How images reach the model: "squash" (AURORA's), "letterbox", "processor", or a `FrameRule`.
        config: The switches; each call may change some.
        box_codec: How box codes become coordinates; an edge is the middle of its bin.

    Raises:
        VocabularyError: Model, tokenizer, vocabulary and codec do not fit together.
        ConfigError: An unknown frame.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        vocab: PerceptionVocabulary,
        *,
        codec: DepthCodec | None = None,
        frame: str | FrameRule = "squash",
        config: InferenceConfig | None = None,
        box_codec: BoxCodec | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.vocab = vocab
        self.codec = codec or DepthCodec.from_pretrained()
        self.frame = FrameRule.parse(frame)
        self.config = config or InferenceConfig()
        self.box_codec = box_codec or BoxCodec(decode="center")
        self._constraints: dict[Any, PerceptionLogitsProcessor] = {}
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
        config: InferenceConfig | None = None,
    ) -> Self:
        """An adapter that training saved, or a merged model: with its rows, manifest, codec and frame.

        Args:
            folder: What `save_adapter`, `merge_adapter` or a finished run of `finetune` wrote.
            base: Of an adapter: where its base is, if not where it was.
            codec: Instead of the saved copy; it has to be the same codec.
            bits: Load the language model in 4 or 8 bits; see `load_llava`, as for `dtype` and `device`.
            dtype: Of the weights.
            device: Where the model and the codec compute.
            config: The switches.

        Raises:
            CheckpointError: No such folder, a damaged one, or a model that was not trained on perception tokens.
            VocabularyError: Model, tokenizer, manifest and codec do not fit together.
        """
        place = find_adapter_folder(folder)
        if (place / ADAPTER_FILE).is_file():
            loaded = load_adapter(place, base=base, codec=codec, bits=bits, dtype=dtype, device=device)
            model, processor, vocab, frame = loaded.model, loaded.processor, loaded.vocab, loaded.frame
            codec = loaded.codec
        else:
            if not (place / MANIFEST).is_file():
                raise CheckpointError(
                    f"{folder} holds neither {ADAPTER_FILE} nor {MANIFEST}: the model was not trained on perception "
                    "tokens; pass a folder that `perceptok llava train` or `merge` wrote"
                )
            if codec is None and (place / "codec").is_dir():
                codec = DepthCodec.from_pretrained(place / "codec")
            model, processor, vocab = load_llava(place, codec=codec, bits=bits, dtype=dtype, device=device)  # type: ignore[assignment]
            frame = FrameRule.parse(get_perception_settings(model)["frame"])
        codec = (codec or DepthCodec.from_pretrained()).to(device)
        return cls(model, processor, vocab, codec=codec, frame=frame, config=config)

    @overload
    def __call__(self, images: ImageSource, questions: str, **changes: Any) -> PerceptionAnswer: ...
    @overload
    def __call__(self, images: Sequence[ImageSource], questions: str, **changes: Any) -> list[PerceptionAnswer]: ...
    @overload
    def __call__(
        self, images: ImageSource | Sequence[ImageSource], questions: Sequence[str], **changes: Any
    ) -> list[PerceptionAnswer]: ...
    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        questions: str | Sequence[str],
        *,
        choices: Sequence[str] = (),
        markers: Markers | None = None,
        **changes: Any,
    ) -> PerceptionAnswer | list[PerceptionAnswer]:
        """Ask.

        Args:
            images: A file, bytes, a Pillow image or an array; or a list of them.
            questions: One for all images, or a list: one for each image, or several for one image.
            choices: What every answer may be, such as ("A", "B"); empty for anything.
            markers: Letter -> x, y in the image's pixels, of points that the questions are about.
            **changes: Switches of `InferenceConfig` for this call.

        Returns:
            One answer for one image and one question, else a list in their order.

        Raises:
            InferenceError: An image or a question that cannot be asked, or a prompt as long as the model's context.
            ConstraintError: A budget too small for what the grammar forces.
        """
        one = isinstance(questions, str) and not isinstance(images, list | tuple)
        pictures: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        asked = [questions] if isinstance(questions, str) else list(questions)
        if len(pictures) == 1:
            pictures *= len(asked)
        if len(asked) == 1:
            asked *= len(pictures)
        if len(pictures) != len(asked):
            raise InferenceError(
                f"{len(pictures)} images and {len(asked)} questions do not pair; give one of either, or as many"
            )
        several = next((number for number, one in enumerate(pictures) if isinstance(one, list | tuple)), None)
        if several is not None:
            raise InferenceError(
                f"question {several} has {len(pictures[several])} images; a depth block describes one: ask of each"
            )
        opened: dict[int, Image.Image] = {}
        for source in pictures:  # one image with several questions is opened once
            if id(source) not in opened:
                opened[id(source)] = open_image(source)
        requests = [
            Request(opened[id(source)], question, tuple(choices), markers or {})
            for source, question in zip(pictures, asked, strict=True)
        ]
        answers = list(self.answers(requests, **changes))
        return answers[0] if one else answers

    def answers(self, requests: Sequence[Request], **changes: Any) -> Iterator[PerceptionAnswer]:
        """Answers in the order of the requests, batch by batch; raises as a call does."""
        config = self._changed(changes)
        for start in range(0, len(requests), config.batch_size):
            yield from self._batch(requests[start : start + config.batch_size], config)

    def stream(
        self,
        image: ImageSource,
        question: str,
        *,
        choices: Sequence[str] = (),
        markers: Markers | None = None,
        **changes: Any,
    ) -> Iterator[Update]:
        """What is known so far, as the model writes: text, rows of the depth map, boxes, and at last the answer.

        The model runs in a thread of its own; closing the generator stops it at its next token.

        Args:
            image: As for a call.
            question: As for a call.
            choices: As for a call.
            markers: As for a call.
            **changes: As for a call.
        """
        config = self._changed(changes)
        request = Request(open_image(image), question, tuple(choices), markers or {})
        prepared = self._prepared([request], config)
        tokenizer = self.processor.tokenizer

        def run(watch: StoppingCriteria) -> PerceptionAnswer:
            ids = self._generated(prepared, config, [watch])
            return self._read(request, ids[0], prepared, 0, config)

        yield from stream_updates(
            run, prepared.length, self.vocab, tokenizer, self._ends(), self.codec, prepared.frames[0], self.box_codec
        )

    def prompted(self, image: ImageSource, question: str) -> dict[str, Any]:
        """What the model takes of one image and question, up to where the answer begins: ids, mask, pixels.

        Raises:
            InferenceError: As a call.
        """
        return self._prepared([Request(open_image(image), question)], self.config).inputs

    # Inside -----------------------------------------------------------------------------------------------------

    def _changed(self, changes: Mapping[str, Any]) -> InferenceConfig:
        try:
            return replace(self.config, **changes)
        except TypeError as error:
            known = ", ".join(self.config.to_dict())
            raise ConfigError(f"unknown switches: {', '.join(changes)}; known are {known}") from error

    def _batch(self, requests: Sequence[Request], config: InferenceConfig) -> list[PerceptionAnswer]:
        prepared = self._prepared(requests, config)
        written = self._generated(prepared, config)
        return [
            self._read(request, ids, prepared, row, config)
            for row, (request, ids) in enumerate(zip(requests, written, strict=True))
        ]

    def _prepared(self, requests: Sequence[Request], config: InferenceConfig) -> _Prepared:
        for one in requests:
            require_choices(one.choices)
            require_choices(tuple(one.markers))
        frames = [self.frame.make_frame(one.image.size, self.processor) for one in requests]
        prompts = [chat_prompt(self.processor, one.question, self.vocab) for one in requests]
        inputs = prompt_inputs(self.processor, prompts, [self.frame.apply(one.image) for one in requests])
        placed: dict[str, Any] = {}
        for name, value in inputs.items():
            on_device = value.to(self.model.device) if isinstance(value, Tensor) else value
            floating = isinstance(on_device, Tensor) and on_device.is_floating_point()
            placed[name] = on_device.to(self.model.dtype) if floating else on_device
        length = placed["input_ids"].shape[1]
        evidence = None
        if config.consistency:
            markers = [one.markers for one in requests]
            evidence = EvidenceRows(
                config.consistency, self.processor.tokenizer, self.vocab, length, markers, frames, self._decoded
            )
        return _Prepared(placed, frames, length, min(config.max_new_tokens, self._room(length)), evidence)

    def _decoded(self, codes: np.ndarray) -> np.ndarray:
        """Codes (10, 10) -> nearness (320, 320)."""
        return np.asarray(self.codec.decode(codes)[0])

    def _room(self, length: int) -> int:
        """Tokens that the model's context leaves for an answer."""
        text = self.model.config.get_text_config()
        context = getattr(text, "max_position_embeddings", None)
        if context is None:
            return 2**31
        if length >= context:
            raise InferenceError(
                f"the prompt has {length} tokens, picture included; the model's context has {context}, so that no room "
                "is left for an answer: shorten the question"
            )
        return int(context) - length

    def _generated(
        self, prepared: _Prepared, config: InferenceConfig, watchers: Sequence[StoppingCriteria] = ()
    ) -> list[list[int]]:
        """The ids of each answer, from behind the prompt up to its end of sequence, that one included."""
        ids = prepared.inputs["input_ids"]
        extra: dict[str, Any] = {}
        if config.constraints:
            held = self._constraint(config).for_prompt(ids, prepared.budget)
            extra["logits_processor"] = [held]
            extra |= {"custom_generate": generate_perception} if config.skip_forced else {}
        if prepared.evidence is not None:
            extra["logits_processor"] = [*extra.get("logits_processor", ()), prepared.evidence]
        if watchers:
            extra["stopping_criteria"] = list(watchers)
        padding = find_pad_token_id(self.model, self.processor.tokenizer)
        how = generation_settings(config, prepared.budget, self._ends(), padding)
        with seeded(config), torch.inference_mode():
            out = self.model.generate(**prepared.inputs, **how, **extra)
        ends = set(self._ends())
        rows = []
        for row in out[:, ids.shape[1] :].tolist():
            end = next((place for place, one in enumerate(row) if one in ends), len(row))
            rows.append(row[: end + 1])
        return rows

    def _ends(self) -> tuple[int, ...]:
        return find_eos_token_ids(self.model, self.processor.tokenizer)

    def _constraint(self, config: InferenceConfig) -> PerceptionLogitsProcessor:
        tokenizer = self.processor.tokenizer
        grammar = config.held_to(self.vocab.has(DEPTH), "aurora" if self.vocab.has(PIXEL) else None)
        if grammar not in self._constraints:
            self._constraints[grammar] = PerceptionLogitsProcessor(
                self.vocab, grammar, tokenizer=tokenizer, eos_token_id=self._ends() or None
            )
        return self._constraints[grammar]

    def _read(
        self, request: Request, ids: Sequence[int], prepared: _Prepared, row: int, config: InferenceConfig
    ) -> PerceptionAnswer:
        ended = bool(ids) and ids[-1] in self._ends()
        answer = read_answer_spans(
            ids[:-1] if ended else ids,
            ended=ended,
            question=request.question,
            image=request.image,
            frame=prepared.frames[row],
            vocab=self.vocab,
            tokenizer=self.processor.tokenizer,
            codec=self.codec,
            box_codec=self.box_codec,
            constrained=config.constraints,
            choices=request.choices,
            markers=request.markers,
            name=request.name,
        )
        return answer if prepared.evidence is None else replace(answer, overruled=prepared.evidence.overruled(row))


class _Prepared(NamedTuple):
    """A batch as `generate` takes it."""

    inputs: dict[str, Any]
    frames: list[ImageFrame]
    length: int
    budget: int
    evidence: EvidenceRows | None
