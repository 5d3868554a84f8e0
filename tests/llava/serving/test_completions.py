"""Chat completions by the official client: the pipeline's answers, their evidence, and OpenAI's fields."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from perceptok.decoding import detect_engine
from perceptok.llava import PerceptionPipeline, Request
from perceptok.llava.inference.rows import TokenLogprob
from perceptok.llava.serving.protocol import describe_logprobs
from perceptok.tokens import DEPTH
from tests.llava.answering import make_image
from tests.llava.serving.conftest import Served, make_messages, openai, to_data_url

IMAGE = make_image(60, 40)


def ask(served: Served, image: Image.Image | str = IMAGE, question: str = "Why?", **fields: Any) -> Any:
    fields = {"max_tokens": 125, **fields}
    return served.client.chat.completions.create(model="perceptok", messages=make_messages(image, question), **fields)


def test_an_answer_and_its_evidence(served: Served, pipe: PerceptionPipeline) -> None:
    markers = {"A": [3.0, 4.0], "B": [50.0, 30.0]}
    response = ask(served, extra_body={"perception": {"force_block": "first", "markers": markers}})
    expected = pipe(IMAGE, "Why?", max_new_tokens=125, force_block="first", markers={"A": (3, 4), "B": (50, 30)})
    choice = response.choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == ("stop" if expected.ended else "length")
    assert response.usage.completion_tokens == expected.tokens
    assert response.usage.prompt_tokens == pipe.prepare_inputs(IMAGE, "Why?")["input_ids"].shape[1]
    evidence = choice.perception
    assert {**expected.to_dict(), **{key: evidence[key] for key in ("codes", "boxes", "problems", "markers")}} == {
        **expected.to_dict()
    }
    assert evidence["image_size"] == [60, 40]
    shown = Image.open(io.BytesIO(base64.b64decode(evidence["depth"]["url"].partition(",")[2])))
    assert expected.depth is not None
    np.testing.assert_allclose(np.asarray(shown) / 255, expected.depth.values, atol=1 / 255)


def test_the_image_as_a_file_in_the_folder(served: Served) -> None:
    by_name, by_data = ask(served, "rooms/kitchen.png", max_tokens=9), ask(served, max_tokens=9)
    assert by_name.choices[0].message.content == by_data.choices[0].message.content


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.2, "seed": 5, "top_p": 0.9, "n": 2}])
def test_a_stream_says_what_the_response_says(served: Served, fields: dict[str, Any]) -> None:
    body = {"perception": {"force_block": "first", "row_maps": True}, "return_token_ids": True}
    whole = ask(served, **fields, extra_body=body)
    options = {"include_usage": True}
    chunks = list(ask(served, stream=True, stream_options=options, **fields, extra_body=body))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert [part.finish_reason for part in mine if part.finish_reason] == [choice.finish_reason]
        events = [part.perception for part in mine if hasattr(part, "perception")]
        rows = [event for event in events if event["event"] == "row"]
        assert [row["row"] for row in rows] == list(range(10))
        assert [code for row in rows for code in row["codes"]] == choice.perception["codes"]
        assert all(row["depth"]["url"].startswith("data:image/png;base64,") for row in rows)
        boxes = [event["box"] for event in events if event["event"] == "box"]
        assert boxes == choice.perception["boxes"]
        assert {**choice.perception, "event": "answer"} == events[-1]
        assert mine[-1].token_ids == choice.token_ids


def test_requests_of_one_batch_are_answered_as_alone(served: Served, pipe: PerceptionPipeline) -> None:
    images = [make_image(40 + seed, 30, seed) for seed in range(6)]
    fields = [{"temperature": 0.4 * (seed % 3), "seed": seed} for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(ask, served, image, "What is it? " * (1 + seed), **fields[seed])
            for seed, image in enumerate(images)
        ]
        texts = [future.result().choices[0].message.content for future in futures]
    for seed, image in enumerate(images):
        assert texts[seed] == pipe(image, "What is it? " * (1 + seed), max_new_tokens=125, **fields[seed]).text
    metrics = httpx.get(f"{served.url}/metrics").text
    counts = re.search(r"perceptok_batch_size_sum (\S+).*?", metrics), re.search(r"batch_size_count (\S+)", metrics)
    assert all(counts)
    answers, batches = (float(found[1]) for found in counts if found is not None)
    assert answers > batches  # some were answered together


def test_a_conversation_about_two_images(served: Served, pipe: PerceptionPipeline) -> None:
    other = make_image(30, 30, 4)
    messages = [
        {"role": "developer", "content": "Be brief."},
        *make_messages(IMAGE, "What is it?"),
        {"role": "assistant", "content": "A room."},
        *make_messages(other, "And (<PIXEL_3>,<PIXEL_4>,<PIXEL_9>,<PIXEL_9>)?"),
    ]
    body = {"perception": {"tokens": "meant"}}
    response = served.client.chat.completions.create(
        model="perceptok", messages=messages, max_tokens=20, extra_body=body
    )
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A room."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": other},
                {"type": "text", "text": "And (<PIXEL_3>,<PIXEL_4>,<PIXEL_9>,<PIXEL_9>)?"},
            ],
        },
    ]
    (expected,) = pipe.answers([Request.from_messages(asked, tokens="meant")], max_new_tokens=20)
    assert response.choices[0].message.content == expected.text
    assert response.choices[0].perception["image_size"] == [60, 40]


def test_choices_follow_the_seed(served: Served, pipe: PerceptionPipeline) -> None:
    fields: dict[str, Any] = {"temperature": 1.3, "seed": 11, "n": 3, "max_tokens": 30}
    response = ask(served, **fields)
    texts = [choice.message.content for choice in response.choices]
    config = {"temperature": 1.3, "seed": 11, "max_new_tokens": 30}
    assert texts == [answer.text for answer in pipe.answers([Request((IMAGE,), "Why?")] * 3, **config)]
    assert len(set(texts)) == 3
    del fields["seed"]
    assert [c.message.content for c in ask(served, **fields).choices] != [
        c.message.content for c in ask(served, **fields).choices
    ]


def test_without_constraints(served: Served, pipe: PerceptionPipeline) -> None:
    fields = {"temperature": 1.0, "seed": 3}
    response = ask(served, **fields, extra_body={"perception": {"constraints": False, "map": False}})
    expected = pipe(IMAGE, "Why?", max_new_tokens=125, constraints=False, **fields)
    assert response.choices[0].message.content == expected.text
    assert response.choices[0].perception["constrained"] is False
    assert response.choices[0].perception["depth"] is None
    assert response.choices[0].perception["problems"] == list(expected.problems) != []


def test_stop(served: Served) -> None:
    fields: dict[str, Any] = {
        "temperature": 1.5,
        "seed": 2,
        "extra_body": {"perception": {"grammar": {"depth": False, "boxes": None}}},
    }
    text = ask(served, **fields).choices[0].message.content
    first, second = re.findall("[ -~]{2}", text[10:])[:2]
    for stop in (second, [second, first]):
        stops = [stop] if isinstance(stop, str) else stop
        end = min(text.find(item) for item in stops if item in text)
        stopped = ask(served, stop=stop, **fields).choices[0]
        assert stopped.message.content == text[:end]
        assert stopped.finish_reason == "stop"
        streamed = "".join(
            chunk.choices[0].delta.content or "" for chunk in ask(served, stop=stop, stream=True, **fields)
        )
        assert streamed == text[:end]


def test_log_probabilities(served: Served) -> None:
    fields: dict[str, Any] = {
        "logprobs": True,
        "top_logprobs": 2,
        "extra_body": {"perception": {"force_block": "first"}},
    }
    choice = ask(served, **fields).choices[0]
    entries = choice.logprobs.content
    assert (
        "".join(entry.token for entry in entries[:102])
        == choice.message.content[: len("".join(e.token for e in entries[:102]))]
    )
    assert entries[0].token == "<DEPTH_START>"  # noqa: S105
    assert entries[0].logprob == 0
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in entries[1:101])
    assert all(entry.top_logprobs[0].token == entry.token for entry in entries[1:101])
    parts = [chunk.choices[0].logprobs for chunk in ask(served, stream=True, **fields)]
    streamed = [entry for part in parts if part is not None for entry in part.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def test_log_probabilities_spell_the_text() -> None:
    """SentencePiece decodes a token alone without the space in front of it; a byte is not a character."""
    pieces = ["<unk>", "\u2581The", "\u2581map", ".", "<0xC3>", "<0xA9>"]
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    ids = [1, 2, 3, 2, 4, 5]
    entries = [TokenLogprob(token_id, -0.5, ((token_id, -0.5), (2, -1.0))) for token_id in ids]
    content = describe_logprobs(entries, tokenizer)["content"]
    assert [entry["token"] for entry in content[:4]] == ["The", " map", ".", " map"]
    assert bytes(value for entry in content for value in entry["bytes"]).decode() == tokenizer.decode(ids)
    assert content[2]["top_logprobs"][1]["bytes"] == list(b" map")
    assert describe_logprobs(entries, tokenizer, start=3)["content"] == content[3:]


def test_a_conversation_by_the_official_client(served: Served) -> None:
    """The message of a response is sent back as the client writes it, with its fields that are null."""
    first = ask(served, extra_body={"perception": {"force_block": "first"}})
    message = first.choices[0].message
    for turn in (message, message.model_dump()):
        messages = [*make_messages(IMAGE), turn, {"role": "user", "content": "And now?"}]
        response = served.client.chat.completions.create(model="perceptok", messages=messages, max_tokens=3)
        assert response.usage.prompt_tokens > first.usage.prompt_tokens + 102
        assert response.system_fingerprint == first.system_fingerprint != ""


def test_the_helpers_of_the_official_client(served: Served) -> None:
    # The helper raises an error for an answer that is cut off.
    fields: dict[str, Any] = {"messages": make_messages(IMAGE), "max_tokens": 125, "stop": [DEPTH.end]}
    fields |= {"model": "perceptok", "extra_body": {"perception": {"row_maps": True}}}
    whole = ask(served, stop=[DEPTH.end]).choices[0].message.content
    with served.client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (whole, "stop")

    async def ask_twice() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            response = await client.chat.completions.create(**fields)
            chunks = await client.chat.completions.create(**fields, stream=True)
            return response.choices[0].message.content, "".join(
                [chunk.choices[0].delta.content or "" async for chunk in chunks]
            )

    assert asyncio.run(ask_twice()) == (whole, whole)


def test_every_field_of_openai_is_known_by_name() -> None:
    """A field that a later version of the API adds is unknown to this server until it is listed."""
    from openai.types.chat import completion_create_params

    from perceptok.llava.serving.protocol import _NEUTRAL, ChatRequest

    fields = set(completion_create_params.CompletionCreateParamsStreaming.__annotations__)
    fields |= set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert fields - _NEUTRAL.keys() - ChatRequest.model_fields.keys() == set()


def test_neutral_values_of_other_fields(served: Served) -> None:
    ask(served, max_tokens=2, frequency_penalty=0, presence_penalty=0.0, response_format={"type": "text"}, user="me")


def test_models_health_and_metrics(served: Served) -> None:
    models = served.client.models.list().data
    assert [model.id for model in models] == ["perceptok"]
    assert models[0].owned_by == "perceptok"
    assert served.client.models.retrieve("perceptok").id == "perceptok"
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
    engine = detect_engine(f"{served.url}/v1")
    assert (engine.name, engine.models) == ("perceptok", ("perceptok",))
    assert engine.version is not None
    metrics = httpx.get(f"{served.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'perceptok_requests_total{path="/health",status="200"}' in metrics.text
    schema = httpx.get(f"{served.url}/openapi.json").json()
    assert "max_completion_tokens" in json.dumps(schema)


def test_an_image_that_a_crop_hides_is_transparent(codec: Any, tiny_llava: Any) -> None:
    from perceptok.boxes import ImageFrame
    from perceptok.llava.inference.answer import resample_to_image
    from perceptok.llava.serving.protocol import _describe_map

    nearness = np.linspace(0, 1, 320, dtype=np.float32)[None].repeat(320, 0)
    depth = resample_to_image(nearness, ImageFrame.center_crop((2000, 1000)), 640)
    shown = _describe_map(depth)
    assert (shown["width"], shown["height"]) == (640, 320)
    image = Image.open(io.BytesIO(base64.b64decode(shown["url"].partition(",")[2])))
    assert image.mode == "LA"
    alpha = np.asarray(image)[..., 1]
    assert (alpha[:, 0] == 0).all()
    assert (alpha[:, 320] == 255).all()


def test_errors_are_those_of_openai(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        served.client.chat.completions.create(model="gpt-4o", messages=make_messages(IMAGE))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, logit_bias={"5": 3})
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == "logit_bias"
    assert to_data_url(IMAGE).startswith("data:image/png")
