"""The functions that the task files name; lmms-eval calls them with its docs and a model's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from perceptok.evaluation.benchmarks.scoring import outcome_of
from perceptok.evaluation.lmms_eval.docs import docs_of_rows, item_of_doc

__all__ = [
    "blink_count_docs",
    "blink_depth_docs",
    "cvbench_count_docs",
    "cvbench_depth_docs",
    "doc_to_target",
    "doc_to_text",
    "doc_to_visual",
    "process_results",
    "seed_count_docs",
]


def blink_depth_docs(rows: Any) -> Any:
    """Docs of BLINK's relative depth."""
    return docs_of_rows("blink-depth", rows)


def blink_count_docs(rows: Any) -> Any:
    """Docs of BLINK's counting."""
    return docs_of_rows("blink-count", rows)


def cvbench_depth_docs(rows: Any) -> Any:
    """Docs of CV-Bench's depth questions."""
    return docs_of_rows("cvbench-depth", rows)


def cvbench_count_docs(rows: Any) -> Any:
    """Docs of CV-Bench's counting questions."""
    return docs_of_rows("cvbench-count", rows)


def seed_count_docs(rows: Any) -> Any:
    """Docs of SEED-Bench's instance counting."""
    return docs_of_rows("seed-count", rows)


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The one picture of a doc in RGB; of a list its first, as SEED-Bench's counting has it."""
    image = doc["image"]
    return [(image[0] if isinstance(image, list) else image).convert("RGB")]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question as `perceptok llava eval` asks it, without options, between pre_prompt and post_prompt."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question']}{around.get('post_prompt', '')}"


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The right answer: a letter, or a count in digits."""
    return item_of_doc(doc).answer


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 or 0 of accuracy, unparsed and invalid, as `perceptok eval score` counts them (see `evaluate`)."""
    outcome = outcome_of(item_of_doc(doc), results[0])
    return {
        "accuracy": float(outcome.right),
        "unparsed": float(outcome.reading.value is None),
        "invalid": float(bool(outcome.problems)),
    }
