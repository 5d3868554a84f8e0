"""vLLM's server with what its defaults lack: llguidance for grammars, our logits processor, and a LLaVA that sees."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from typer.testing import CliRunner

import perceptok as pt
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn, write_records
from perceptok.decoding import GrammarConfig, check_server, detect_engine, find_grammar_backend
from perceptok_cli.main import app
from tests.engines.conftest import run_engine_server
from tests.engines.served_checks import ask, build_constraint, open_client

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA whose head prefers perception tokens."""
    import make_model

    folder = tmp_path_factory.mktemp("llava") / "model"
    make_model.make_tiny_llava(folder)
    return folder


@pytest.fixture(scope="module")
def server(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = ["--structured-outputs-config.backend", "guidance"]
    settings += ["--logits-processors", "perceptok.decoding.engines.vllm:VllmLogitsProcessorV1"]
    with run_engine_server("vllm", "serve_vllm", llava, tmp_path_factory.mktemp("server"), settings) as url:
        yield url


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.radial_gradient("L").resize((90, 60)).convert("RGB")


@pytest.fixture(scope="module")
def image_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_the_backend_is_found_and_the_order_is_exact(server: str, llava: Path) -> None:
    check = check_server(server, tokenizer=llava, num_requests=9, has_image=True, max_tokens=180)
    assert check.is_enforced, check
    assert check.engine.grammar_backend == "llguidance"
    assert (check.boxes.unordered, check.stray_tokens) == (0, 0)
    assert check.blocks.whole >= 3
    assert check.boxes.whole >= 3
    free = check_server(server, tokenizer=llava, num_requests=3, has_image=True, is_constrained=False)
    assert not free.is_enforced
    assert free.boxes.unordered > 0


def test_an_image_is_part_of_the_prompt(server: str, llava: Path, image_url: str) -> None:
    """16 tokens of it, at the place of one."""
    body = build_constraint(server, llava, GrammarConfig(force_block="first"), grammar_backend="llguidance")
    lengths = []
    for parts in ([], [{"type": "image_url", "image_url": {"url": image_url}}]):
        content: Any = [*parts, {"type": "text", "text": "The depth map"}]
        reply = open_client(server).chat.completions.create(
            model="perception", messages=[{"role": "user", "content": content}], max_tokens=102, extra_body=body
        )
        assert len(pt.parse_generation(reply.choices[0].message.content or "").blocks) == 1
        assert reply.usage is not None
        lengths.append(reply.usage.prompt_tokens)
    assert lengths[1] >= lengths[0] + 16


def test_the_client_answers_about_files(server: str, llava: Path, image: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        image.rotate(120 * number).save(tmp_path / "images" / f"{number}.png")
    words = ["llava", "infer", llava, tmp_path / "images", "-q", "What is the depth map for the image?", "-o"]
    words += [tmp_path / "answers.jsonl", "--server", server, "--force-block", "first", "--max-new-tokens", 140]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["name"] for answer in answers] == ["0.png", "1.png", "2.png"]
    for answer in answers:
        assert answer["constrained"]
        assert answer["text"].startswith(pt.tokens.DEPTH.start)
        assert len(answer["codes"]) == 100


def test_a_served_model_is_evaluated(server: str, llava: Path, image: Image.Image, tmp_path: Path) -> None:
    """The constraint holds, so that every answer has a whole block; which letter it names is chance."""
    turns = (Turn("user", "Which point is the closest?"), Turn("assistant", "(A)"))
    markers = (Marker("A", 100.0, 40.0, 0.9), Marker("B", 200.0, 300.0, 0.1))
    codec = pt.DepthCodec.from_pretrained()
    evidence = Evidence((5,) * 100, codec.fingerprint, markers)
    records = []
    for number in range(3):
        image.rotate(120 * number).save(tmp_path / f"{number}.png")
        frame = pt.boxes.ImageFrame.squash(image.size, 336)
        values: Any = (turns, "depth", "cot", 1.0, frame, "A", ("A", "B"), evidence)
        records.append(PerceptionRecord(f"r{number}", (f"{number}.png",), *values))
    write_records(tmp_path / "records.jsonl", records)
    words = ["llava", "eval", llava, "--benchmark", "records", "--data", tmp_path / "records.jsonl"]
    words += ["-o", tmp_path / "scores", "--server", server, "--force-block", "first", "--max-new-tokens", 140]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "scores/scores.json").read_text())["evidence"]["figures"]
    whole = figures["answers with one whole block"]
    assert (whole["items"], whole["value"]) == (3, 1.0)


def ask_processor(server: str, config: Any, max_tokens: int, seed: int = 0) -> tuple[str, str]:
    """An answer under our logits processor."""
    return ask(open_client(server), seed, max_tokens, {"vllm_xargs": {"perceptok": json.dumps(config)}})


def test_the_processor_keeps_the_budget(server: str) -> None:
    """A block or box is not begun that cannot be finished; grammars cut it."""
    for max_tokens in (20, 102, 110, 130):
        for seed in range(3):
            text, _ = ask_processor(server, True, max_tokens, seed)
            assert not pt.parse_generation(text).problems, text
    text, _ = ask_processor(server, {"force_block": "somewhere", "max_blocks": 1}, 120)
    assert len(pt.parse_generation(text).blocks) == 1


@pytest.mark.parametrize(
    ("config", "max_tokens", "message"),
    [
        ({"force_block": "first"}, 101, "the answer needs at least 102 tokens for what is forced; max_tokens is 101"),
        ({"first": "box"}, 5, "the answer needs at least 9 tokens"),
        ({"colour": 1}, 50, "unknown key 'colour'"),
        ({"boxes": "other"}, 50, "boxes"),
        ({"first": "box", "force_block": "first"}, 200, "contradict each other"),
        ([1], 50, "perceptok is true or the keys of a GrammarConfig"),
    ],
)
def test_a_bad_request_is_refused(server: str, config: Any, max_tokens: int, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ask_processor(server, config, max_tokens)


@pytest.mark.parametrize(
    "constraint",
    [{"grammar": "start: missing"}, {"structural_tag": json.dumps({"type": "structural_tag", "format": {}})}],
)
def test_a_constraint_that_is_not_valid_is_refused(server: str, constraint: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(open_client(server), 0, 20, {"structured_outputs": constraint})


@pytest.mark.parametrize("url", ["data:image/png;base64,@@@", "data:image/png;base64,aGVsbG8="])
def test_an_image_that_cannot_be_read_is_refused(server: str, url: str) -> None:
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Why?"}]
    with pytest.raises(openai.BadRequestError):
        open_client(server).chat.completions.create(
            model="perception", messages=[{"role": "user", "content": content}], max_tokens=5
        )
    assert find_grammar_backend(detect_engine(server), pt.PerceptionVocabulary.from_tokenizer(_load(server)))


def _load(server: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(detect_engine(server).root)
