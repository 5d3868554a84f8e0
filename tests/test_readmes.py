"""Every code block of every README runs, in a folder of small files under the names that the READMEs use.

A block that cannot run here says why in a marker before it, `<!-- skip: next "needs a GPU" -->`, which is sybil's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from sybil import Example
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from tests.readme_files import write_readme_files

ROOT = Path(__file__).resolve().parents[1]
READMES = sorted(
    {
        ROOT / "README.md",
        *(ROOT / "perceptok").rglob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
    }
    - {ROOT / "perceptok" / "llava" / "SERVING.md"}  # run by tests/llava/inference/test_served.py
)
MAX_LINES = 150
MAX_LINES_OF_A_PACKAGE = 120
PACKAGES = sorted(path.parent for path in (ROOT / "perceptok").glob("*/__init__.pyi"))
WITH_DATA = {"samples", "weights"}
LANGUAGES = {"python", "sh", "text", "json", "jsonl", "yaml", "html", ""}


def run_shell(example: Example) -> str | None:
    """Run the commands of a block in a shell; returns the error, or None."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],  # noqa: S607
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    return None if done.returncode == 0 else f"exit {done.returncode} of\n{example.parsed}\n{done.stdout}{done.stderr}"


PARSERS = (SkipParser(), PythonCodeBlockParser(), CodeBlockParser("sh", run_shell))


@pytest.fixture(scope="session")
def readme_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readmes")
    write_readme_files(folder)
    return folder


@pytest.fixture
def working_folder(readme_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the files for each README, as the working directory."""
    subprocess.run(["cp", "-r", f"{readme_files}/.", str(tmp_path)], check=True)  # noqa: S607
    monkeypatch.chdir(tmp_path)
    return tmp_path


def get_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# A warning inside peft's `get_peft_model`.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("readme", READMES, ids=get_name)
def test_every_block_runs(readme: Path, working_folder: Path) -> None:
    document = Document.parse(str(readme), *PARSERS)
    examples = list(document.examples())
    for example in examples:
        try:
            example.evaluate()
        except SkipTest:  # raised by a marker, with its reason
            continue


def test_a_failing_block_is_detected(tmp_path: Path) -> None:
    """The test above can fail, for both languages."""
    for block in ("```python\nassert False\n```\n", "```sh\nfalse\n```\n"):
        page = tmp_path / "README.md"
        page.write_text(block)
        (example,) = Document.parse(str(page), *PARSERS).examples()
        with pytest.raises(AssertionError):
            example.evaluate()


@pytest.mark.parametrize("readme", READMES, ids=get_name)
def test_every_block_has_a_known_language(readme: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert {language.strip() for language in fences[::2]} <= LANGUAGES - {""}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_has_a_page_of_moderate_length(package: Path) -> None:
    assert len((package / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_LINES_OF_A_PACKAGE


def test_folders_inside_a_package_have_no_page() -> None:
    pages = {path.parent for path in (ROOT / "perceptok").rglob("README.md")}
    assert {path for path in pages if path not in PACKAGES} <= {path for path in pages if path.name in WITH_DATA}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("readme", READMES, ids=get_name)
def test_relative_links_exist(readme: Path) -> None:
    for link in links(readme.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://", "#")):
            assert (readme.parent / link.partition("#")[0]).exists(), f"{readme}: {link}"


def test_the_long_description_has_no_dead_links() -> None:
    """Nor images of the repository."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for step in hook["substitutions"]:
        text = re.sub(step["pattern"], step["replacement"], text)
    assert links(text)
    assert all(link.startswith("https://") for link in links(text))
    assert "](examples/" not in text
    assert "skip:" not in text
