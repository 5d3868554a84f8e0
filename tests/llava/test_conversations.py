"""What is trained is what is asked: conversations, several images and typed tokens, in every family and entry point."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import perceptok as pt
from perceptok.data import PerceptionRecord, TokenReading, Turn, write_records
from perceptok.data.record_files import read_records
from perceptok.errors import InferenceError, RecordError
from perceptok.evaluation import load_benchmark
from perceptok.evaluation.asking import make_request
from perceptok.llava import PerceptionPipeline, Request, find_questions, load_llava
from perceptok.llava.inference.batch import _open_request
from perceptok.llava.training.samples import IGNORE_INDEX, Collator, read_samples
from tests.llava.answering import make_image
from tests.llava.families import save_family

MARKS = {"llava_7b": "</s>", "qwen2_5_vl": "<|im_end|><|image_pad|><|vision_start|>", "idefics3": "<end_of_utterance>"}
"""Control tokens of each family."""

REGION = "How many cars are in (<PIXEL_10>,<PIXEL_20>,<PIXEL_30>,<PIXEL_40>), where <DEPTH_5> is?"


@pytest.fixture(scope="module", params=sorted(MARKS))
def pipe(request: pytest.FixtureRequest, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_family(request.param, tmp_path_factory.mktemp(request.param) / "base")
    model, processor, vocab = load_llava(folder, codec=codec)
    made = PerceptionPipeline(model, processor, vocab, codec=codec)
    made.marks = MARKS[request.param]  # type: ignore[attr-defined]
    return made


def make_record(*texts: str, images: int = 1, tokens: TokenReading = "meant") -> PerceptionRecord:
    turns = tuple(Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))
    names = tuple(f"{number}.png" for number in range(images))
    return PerceptionRecord("r", names, turns, "counting", "direct", answer="2", tokens=tokens)


def write(folder: Path, record: PerceptionRecord, name: str = "records.jsonl") -> Path:
    for number, image in enumerate(record.images):
        make_image(60 + 10 * number, 40, number).save(folder / image)
    write_records(folder / name, [record], force=True)
    return folder / name


def trained_prompt(pipe: PerceptionPipeline, path: Path) -> dict[str, torch.Tensor]:
    """What stands before the last answer of the training sample, and what the processor makes of its images."""
    samples = read_samples((str(path),), pipe.processor, pipe.vocab, pipe.frame, max_length=4096)
    batch = Collator(pipe.processor, pipe.vocab, pipe.frame)(samples.samples)
    is_supervised = batch.pop("labels")[0] != IGNORE_INDEX
    begin = int((is_supervised[1:] & ~is_supervised[:-1]).nonzero()[-1]) + 1
    width = batch["input_ids"].shape
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {name: value[:, :begin] if value.shape == width else value for name, value in tensors.items()}


def asked_prompts(pipe: PerceptionPipeline, path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Entry point -> what the model is asked with."""
    (question,), failures = find_questions([path])
    assert failures == []
    opened = _open_request(question)
    assert isinstance(opened, Request)
    item = load_benchmark("records", path).items[0]
    return {
        "infer": pipe.prepare_requests([opened]),
        "eval": pipe.prepare_requests([make_request(item, "published")]),
    }


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, check_dtype=False)


CONVERSATIONS = {
    "one turn": make_record("How many cars?", "2"),
    "three turns": make_record("Is it day?", "Yes.", "Are there cars?", "Yes, some.", "How many?", "2"),
    "two images": make_record("How many cars are in both?", "2", images=2),
    "turns and images": make_record("Compare them.", "They differ.", "How many cars in both?", "2", images=3),
    "a region": make_record("Where?", "In (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>).", REGION, "2"),
    "a region as text": make_record("Where?", "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)", REGION, "2", tokens="text"),
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_record_is_asked_as_it_is_trained(pipe: PerceptionPipeline, kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, CONVERSATIONS[kind])
    trained = trained_prompt(pipe, path)
    for entry, asked in asked_prompts(pipe, path).items():
        assert asked["input_ids"].tolist() == trained["input_ids"].tolist(), entry
        assert_same(trained, asked)


@pytest.mark.parametrize("tokens", ["meant", "text"])
def test_a_request_says_which_tokens_are_meant(pipe: PerceptionPipeline, tokens: TokenReading, tmp_path: Path) -> None:
    marks = pipe.marks  # type: ignore[attr-defined]
    text = f"{REGION} What does {marks} do?"
    path = write(tmp_path, make_record("Is it day?", "Yes.", text, "2", tokens=tokens))
    ids = pipe.processor.tokenizer(REGION, add_special_tokens=False)["input_ids"]
    meant = [token_id for token_id in ids if token_id in pipe.vocab.tokens.values()]
    assert len(meant) == 5
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it day?"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": text},
    ]
    image = tmp_path / "0.png"
    line = {"image": "0.png", "messages": conversation, "tokens": tokens}
    (tmp_path / "line.jsonl").write_text(json.dumps(line))
    (question,), failures = find_questions([tmp_path / "line.jsonl"])
    assert failures == []
    from_line = _open_request(question)
    assert isinstance(from_line, Request)
    asked = [
        *asked_prompts(pipe, path).values(),
        pipe.prepare_inputs(image, conversation, tokens=tokens),
        pipe.prepare_requests([from_line]),
    ]
    trained = trained_prompt(pipe, path)
    control = set(pipe.processor.tokenizer.convert_tokens_to_ids(list_marks(marks)))
    before = pipe.prepare_inputs(image, [*conversation[:2], {"role": "user", "content": "?"}])["input_ids"][0].tolist()
    for prompt in (trained, *asked):
        assert_same(trained, prompt)
        found = prompt["input_ids"][0].tolist()
        assert [i for i in found if i in pipe.vocab.tokens.values()] == (meant if tokens == "meant" else [])
        for token_id in control:
            assert found.count(token_id) == before.count(token_id)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def list_marks(marks: str) -> list[str]:
    return [f"<{part}" for part in marks.split("<")[1:]]


def test_text_is_the_default_of_requests(pipe: PerceptionPipeline, tmp_path: Path) -> None:
    image = make_image(60, 40)
    default = pipe.prepare_inputs(image, REGION)["input_ids"]
    assert torch.equal(default, pipe.prepare_inputs(image, REGION, tokens="text")["input_ids"])
    assert not pipe.vocab.is_perception(default).any()
    with pytest.raises(InferenceError, match="the vocabulary has no <PIXEL_999>"):
        pipe.prepare_inputs(image, "What is at <PIXEL_999>?", tokens="meant")
    with pytest.raises(InferenceError, match="tokens must be one of meant, text; got 'all'"):
        pipe.prepare_inputs(image, "What?", tokens="all")  # type: ignore[arg-type]
    path = write(tmp_path, make_record("What is <PIXEL_999>?", "2", tokens="text"))
    for asked in asked_prompts(pipe, path).values():
        assert_same(trained_prompt(pipe, path), asked)
    with pytest.raises(RecordError, match="the vocabulary has no <PIXEL_999>"):
        trained_prompt(pipe, write(tmp_path, make_record("What is <PIXEL_999>?", "2")))


def test_an_answer_with_a_control_token_is_not_taught(pipe: PerceptionPipeline, tmp_path: Path) -> None:
    mark = list_marks(pipe.marks)[0]  # type: ignore[attr-defined]
    path = write(tmp_path, make_record("How many?", f"2{mark}"))
    with pytest.raises(RecordError, match=r"record 'r': turns\.1\.text contains a control token"):
        trained_prompt(pipe, path)


def test_a_conversation_is_answered(pipe: PerceptionPipeline) -> None:
    """Alone, in a batch with others, and streamed; with images in messages or beside them."""
    images = [make_image(60, 40), make_image(70, 40, 1)]
    conversation = [
        {"role": "user", "content": [*({"type": "image", "image": i} for i in images), text("Compare.")]},
        {"role": "assistant", "content": [text("They differ.")]},
        {"role": "user", "content": [text("How?")]},
    ]  # fmt: skip
    turns = (Turn("user", "Compare."), Turn("assistant", "They differ."))
    requests = [
        Request.from_messages(conversation),
        Request(tuple(images), "How?", history=turns),
        Request((images[0],), "How many cars are there in this image?"),
    ]
    assert_same(pipe.prepare_requests(requests[:1]), pipe.prepare_requests(requests[1:2]))
    answers = list(pipe.answers(requests, max_new_tokens=4))
    assert [answer.text for answer in answers] == [
        next(pipe.answers([request], max_new_tokens=4)).text for request in requests
    ]
    assert answers[0].image.size == images[0].size
    streamed = [*pipe.stream_request(requests[0], max_new_tokens=4)][-1].answer
    assert streamed is not None
    assert streamed.text == answers[0].text
    both = pipe([images, images[0]], ["Compare.", "How?"], max_new_tokens=2)
    assert [answer.question for answer in both] == ["Compare.", "How?"]


def test_a_later_image_and_a_system_text(pipe: PerceptionPipeline) -> None:
    images = [make_image(60, 40), make_image(70, 40, 1)]
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A <image>."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this <image>?"}]},
    ]
    request = Request.from_messages(conversation, images)
    assert len(request.images) == 2
    ids = pipe.prepare_requests([request])["input_ids"][0]
    token = int(pipe.processor.tokenizer.convert_tokens_to_ids(pipe.processor.image_token))
    each = (pipe.prepare_inputs(images[0], "What is it?")["input_ids"] == token).sum()
    assert int((ids == token).sum()) == 2 * int(each)
    system = {"role": "system", "content": "Be brief."}
    text = pipe.processor.tokenizer.decode(pipe.prepare_inputs(images, [system, *conversation])["input_ids"][0])
    assert "Be brief." in text


@pytest.mark.parametrize(
    ("messages", "images", "reason"),
    [
        ([], 1, "a list of messages that is not empty"),
        ([{"role": "user"}], 1, "message 0: expected an object with role and content"),
        ([{"role": "tool", "content": "?"}], 1, "message 0: expected the role user or assistant"),
        ([{"role": "user", "content": 3}], 1, "message 0: content is text or a list of parts"),
        ([{"role": "user", "content": [{"type": "audio"}]}], 1, "message 0: expected parts of text"),
        ([{"role": "user", "content": [{"type": "image", "url": "https://x/y.png"}]}], 1, "nothing is downloaded"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}], 1, "an image part without its image"),
        ([{"role": "user", "content": [{"type": "image"}]}], 2, "1 images have no place"),
        ([{"role": "assistant", "content": "Hm."}, {"role": "user", "content": "?"}], 1, "begins and ends with the"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], 1, "user and assistant alternate"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], 1, "user and assistant alternate"),
        ([{"role": "system", "content": "a"}], 1, "needs a message of the user"),
    ],
)  # fmt: skip
def test_conversations_that_are_refused(messages: Any, images: int, reason: str) -> None:
    with pytest.raises(InferenceError, match=reason):
        Request.from_messages(messages, [make_image(9, 9)] * images)


def test_a_question_without_text_or_image_is_refused(tiny_llava: Path, codec: pt.DepthCodec) -> None:
    pipe = PerceptionPipeline(*load_llava(tiny_llava, codec=codec), codec=codec)
    with pytest.raises(InferenceError, match="a question must be a string that is not empty"):
        pipe(make_image(9, 9), [{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(InferenceError, match="needs at least one image"):
        pipe.prepare_requests([Request((), "Why?")])


def test_tokens_survive_every_form_of_records(tmp_path: Path) -> None:
    record = make_record(f"{REGION} <\\DEPTH_5>", "2", tokens="text")
    for name, form in (("a.jsonl", "records"), ("a.jsonl", "llava"), ("a.jsonl", "chat"), ("a.json", "llava")):
        write_records(tmp_path / name, [record, replace(record, tokens="meant")], form=form, force=True)  # type: ignore[arg-type]
        assert list(read_records(tmp_path / name)) == [record, replace(record, tokens="meant")]
    write_records(tmp_path / "a.parquet", [record, replace(record, tokens="meant")])
    assert [item.tokens for item in read_records(tmp_path / "a.parquet")] == ["text", "meant"]
    # Other programs get the user's tokens as text.
    assert "<PIXEL_10>" not in json.dumps(record.to_llava()["conversations"]) + json.dumps(record.to_messages())
    with pytest.raises(RecordError, match="tokens: expected one of meant, text"):
        replace(record, tokens="all")  # type: ignore[arg-type]


def test_lines_of_requests(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make_image(9, 9).save(tmp_path / name)
    part = {"type": "image", "path": "b.png"}
    lines: list[dict[str, Any]] = [
        {"images": ["a.png", "b.png"], "question": "Which?"},
        {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "Which <image>?"}]}], "id": "m"},
        {"image": "a.png", "images": ["b.png"], "question": "?"},
        {"images": [], "question": "?"},
        {"image": "a.png", "messages": [{"role": "user", "content": "?"}], "question": "?"},
        {"messages": [{"role": "user", "content": "?"}]},
        {"image": "a.png", "question": "?", "tokens": "all"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions, failures = find_questions([tmp_path / "q.jsonl"], tokens="meant")
    assert [question.name for question in questions] == ["a.png+b.png", "m"]
    assert questions[0].images == (tmp_path / "a.png", tmp_path / "b.png")
    assert questions[0].tokens == "meant"
    assert questions[1].images == (tmp_path / "b.png",)
    assert questions[1].question == "<image>Which <\\image>?"
    reasons = [failure.reason for failure in failures]
    expected = ("a single path", "a single path", "the last message is the question", "paths of images", "tokens must")
    assert len(reasons) == len(expected)
    assert all(text in reason for text, reason in zip(expected, reasons, strict=True)), reasons
    (together,), _ = find_questions([tmp_path / "a.png", tmp_path / "b.png"], question="Which?", together=True)
    assert together.images == (tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(InferenceError, match="not an image file; one question about several"):
        find_questions([tmp_path], question="Which?", together=True)
