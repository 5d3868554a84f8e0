"""`perceptok llava eval` and `replace`: answers, resuming, evidence, pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import perceptok as pt
from perceptok.boxes import ImageFrame
from perceptok.data import Evidence, Marker, PerceptionRecord, Turn, write_records
from perceptok_cli.main import app
from tests.evaluation.judge_server import run_judge_server
from tests.llava.answering import make_image
from tests.llava.conftest import codec, tiny_adapter, tiny_llava

__all__ = ["codec", "tiny_adapter", "tiny_llava"]


def run(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["llava", *(str(word) for word in words)], env=env)


@pytest.fixture
def records(tmp_path: Path, codec: pt.DepthCodec) -> Path:
    """Four questions about the nearer of two points; the map is a ramp, nearest at its top."""
    ramp = np.broadcast_to(np.linspace(1, 0, 64, dtype=np.float32)[:, None], (64, 64))
    codes = tuple(int(code) for code in codec.encode(np.ascontiguousarray(ramp)).ravel())
    markers = (Marker("A", 100.0, 40.0, 0.9), Marker("B", 200.0, 300.0, 0.1))
    found = []
    for number in range(4):
        name = f"{number}.png"
        make_image(40, 30, number).save(tmp_path / name)
        turns = (Turn("user", "Which point is the closest?"), Turn("assistant", "(A)"))
        frame = ImageFrame.squash((40, 30), 336)
        evidence = Evidence(codes, codec.fingerprint, markers)
        found.append(
            PerceptionRecord(f"r{number}", (name,), turns, "depth", "cot", 1.0, frame, "A", ("A", "B"), evidence)
        )
    write_records(tmp_path / "records.jsonl", found)
    return tmp_path / "records.jsonl"


OPTIONS = ("--force-block", "first", "--max-new-tokens", 110, "--batch-size", 2)


def test_eval_checks_the_evidence_and_resumes(tiny_adapter: Path, records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("eval", tiny_adapter, "--benchmark", "records", "--data", records, "-o", out, *OPTIONS)
    done = run(*words)
    assert done.exit_code == 0, done.output
    values = json.loads((out / "scores.json").read_text())
    figures = values["evidence"]["figures"]
    whole, ceiling = figures["answers with one whole block"], figures["ceiling: the specialist's own map"]
    assert (whole["items"], whole["value"], whole["interval"]) == (4, 1.0, [pytest.approx(0.5101, abs=1e-4), 1.0])
    assert (ceiling["items"], ceiling["value"]) == (4, 1.0)
    assert figures["ceiling: the specialist through the codec"]["value"] == 1.0
    assert 0 < figures["RMSE of the block against the teacher"]["value"] < 1
    assert set(values["evidence"]["items"]) == {"r0", "r1", "r2", "r3"}
    assert "Is the answer right more often" in done.stdout
    first = done.stdout.splitlines()[0]
    assert first.startswith(("conclusion follows the own block: ", "conclusion and own evidence: no answer has both"))
    page = (out / "page.html").read_text()
    assert page.count('id="depth-') == page.count('id="teacher-') == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "page.html", "predictions.jsonl", "scores.csv", "scores.json", "scores.md",
    ]  # fmt: skip
    assert isinstance(run(*words).exception, pt.errors.OutputError)

    # A killed run: two answers are there, half a line of the third. The journal's own answers are taken over.
    texts = [json.loads(line)["text"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    killed = tmp_path / "killed"
    words = ("eval", tiny_adapter, "--benchmark", "records", "--data", records, "-o", killed, *OPTIONS)
    broken = tmp_path / "2.png"
    content = broken.read_bytes()
    stat = broken.stat()
    broken.write_bytes(b"no image")
    assert run(*words).exit_code != 0
    partial = killed / "predictions.jsonl.partial"
    lines = partial.read_text().splitlines()
    assert len(lines) == 4  # what the answers are of, and three answers
    marked = json.loads(lines[1])
    marked["result"]["text"] = "content as it was (A)"
    partial.write_text("\n".join([lines[0], json.dumps(marked), lines[2]]) + '\n{"index": 2, "res')
    broken.write_bytes(content)
    assert stat.st_size == broken.stat().st_size
    assert run(*words).exit_code == 0
    resumed = [json.loads(line)["text"] for line in (killed / "predictions.jsonl").read_text().splitlines()]
    assert resumed == ["content as it was (A)", *texts[1:]]


def test_eval_with_a_judge(tiny_adapter: Path, records: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the extra client is not installed")
    out, key = tmp_path / "out", {"OPENAI_API_KEY": "k"}
    words = ["eval", tiny_adapter, "--benchmark", "records", "--data", records, "-o", out, *OPTIONS]
    with run_judge_server() as server:
        assert "a judge needs both --judge URL and --judge-model NAME" in run(*words, "--judge", server.url).output
        assert not out.exists()
        words += ["--judge", server.url, "--judge-model", "reader"]

        # The endpoint fails: what the rules left unread stays so, and the answers of the model are kept.
        server.answer = lambda body: (401, {"error": {"message": "wrong key"}})
        with pytest.warns(
            UserWarning, match="the judge reader failed for . of . texts, which stay unread: .*wrong key"
        ):
            failed = run(*words, env=key)
        assert failed.exit_code == 0, failed.output
        values = json.loads((out / "scores.json").read_text())
        unread = values["overall"]["unparsed"]
        assert 1 <= unread <= 4
        assert values["judge"]["asked"] == values["judge"]["failed"] == unread
        assert "wrong key" in failed.stderr
        assert set(server.keys) == {"Bearer k"}

        # Half of the texts are read; the rest is asked for again by the same command.
        server.requests.clear()
        replies = iter(["A", *["none"] * 4])
        server.answer = lambda body: (200, next(replies))
        done = run(*words, "--force", env=key)
        assert done.exit_code == 0, done.output
        values = json.loads((out / "scores.json").read_text())
        counts = [values["overall"][name] for name in ("judged", "unparsed", "right")]
        assert counts[:2] == [1, unread - 1]
        assert values["without the judge"]["unparsed"] == unread
        assert counts[2] == values["without the judge"]["right"] + 1
        assert len(server.requests) == unread
        assert all(body["model"] == "reader" and "Which point" in str(body["messages"]) for body in server.requests)
        table = next(line for line in done.stdout.splitlines() if "without the judge" in line)
        assert str(unread) in table.split()
        assert f"The judge reader read 1 of the {unread} texts that the rules left unread." in done.stderr

        # Replies are kept: an evaluation that is resumed or repeated asks for none again.
        text, count = (out / "predictions.jsonl").read_text(), len(server.requests)
        again = run(*words, "--force", env=key)
        assert again.exit_code == 0, again.output
        assert len(server.requests) == count
        assert json.loads((out / "scores.json").read_text())["overall"] == values["overall"]
        assert (out / "predictions.jsonl").read_text() == text
        kept = (out / "judge.jsonl").read_bytes()
        (out / "judge.jsonl").write_bytes(kept[: kept.rindex(b"{", 0, -1)])  # a run killed while it wrote the last
        assert run(*words, "--force", env=key).exit_code == 0
        assert len(server.requests) == count + 1


def test_answers_of_another_model_or_settings_are_refused(tiny_adapter: Path, records: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "3.png"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    words = ("--benchmark", "records", "--data", records, "-o", out)
    assert run("eval", tiny_adapter, *words, *OPTIONS).exit_code != 0
    broken.write_bytes(content)
    other = run("eval", tiny_adapter, *words, *OPTIONS, "--no-constraints")
    assert other.exit_code != 0
    other = run("eval", tiny_adapter, *words, "--max-new-tokens", 110, "--batch-size", 2)
    assert "another run" in str(other.exception)
    moved = tmp_path / "moved"
    shutil.copytree(tiny_adapter, moved)
    other = run("eval", moved, *words, *OPTIONS)
    assert "another run" in str(other.exception)


def test_replace(tiny_adapter: Path, records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("replace", tiny_adapter, records, "-o", out, "--max-new-tokens", 4, "--batch-size", 3)
    done = run(*words)
    assert done.exit_code == 0, done.output
    values = json.loads((out / "replacement.json").read_text())
    assert list(values["kinds"]) == ["own", "oracle", "random", "constant", "other", "shuffled", "none"]
    assert all(figures["items"] == 4 for figures in values["kinds"].values())
    assert sorted(path.name for path in out.iterdir()) == [
        "answers.jsonl", "page.html", "replacement.csv", "replacement.json", "replacement.md",
    ]  # fmt: skip
    assert isinstance(run(*words).exception, pt.errors.OutputError)
    found = run(*words, "--force", "--kinds", "own,best").exception
    assert "the kinds of blocks are own, oracle" in str(found)


def test_eval_of_a_served_model_is_that_of_a_loaded_one(tiny_adapter: Path, records: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    pytest.importorskip("openai", reason="the extra client is not installed")
    from tests.llava.serving.conftest import run_server

    pipe = pt.PerceptionPipeline.from_pretrained(tiny_adapter)
    words = ("eval", tiny_adapter, "--benchmark", "records", "--data", records, *OPTIONS)
    with run_server(pipe, pt.llava.ServingConfig()) as served:
        done = run(*words, "-o", tmp_path / "served", "--server", served.url, "--concurrency", 3)
        assert done.exit_code == 0, done.output
    assert run(*words, "-o", tmp_path / "local").exit_code == 0
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("served", "local")]
    assert texts[0] == texts[1]
    assert texts[0].count("<DEPTH_START>") == 4
