"""The tasks inside lmms-eval itself, in a process of its own; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from perceptok.evaluation import tasks_folder, write_task

pytestmark = pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed")

_LOAD = """
import json, sys
from lmms_eval.tasks import TaskManager
tasks = {}
for folder, updates in json.loads(sys.argv[1]):
    manager = TaskManager(include_path=folder, include_defaults=False)
    for name in manager.all_subtasks:
        config = {"task": name, **updates[name]} if name in updates else name
        task = manager.load_task_or_group([config])[name]
        docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
        tasks[name] = {
            "tags": manager.all_tags,
            "hub": manager._get_config(name)["dataset_path"],
            "asked": [task.doc_to_text(doc) for doc in docs],
            "targets": [task.doc_to_target(doc) for doc in docs],
            "sizes": [task.doc_to_visual(doc)[0].size for doc in docs],
            "results": [task.process_results(doc, [" B is the answer "]) for doc in task.eval_docs_no_media],
            "metrics": sorted(task.aggregation()),
            "generation": task.config.generation_kwargs,
        }
print("TASKS" + json.dumps(tasks))
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_task_is_listed_and_loaded(tmp_path: Path) -> None:
    """The hub's data sets are put beside as saved ones in their layout; all else is as the files say."""
    datasets = pytest.importorskip("datasets")
    from tests.evaluation.lmms_eval.test_tasks import EXPECTED, hardblink, published

    updates = {}
    for name in EXPECTED:
        split = "val" if name.startswith("blink") else "test"
        saved = tmp_path / "saved" / name
        datasets.DatasetDict({split: published(name)}).save_to_disk(str(saved))
        updates[f"perceptok_{name}"] = {"dataset_path": str(saved), "dataset_kwargs": {"load_from_disk": True}}
    write_task(hardblink(), tmp_path / "tasks")
    folders = [[str(tasks_folder()), updates], [str(tmp_path / "tasks"), {}]]
    done = run(tmp_path, "-c", _LOAD, json.dumps(folders))
    tasks: dict[str, Any] = json.loads(done.stdout.rpartition("TASKS")[2])
    assert tasks.keys() == {*updates, "perceptok_hardblink_3"}
    for name, task in tasks.items():
        targets = EXPECTED.get(name.removeprefix("perceptok_"), list("ABCABC"))
        assert task["targets"] == targets
        assert len(task["asked"]) == len(targets)
        assert task["sizes"] == [[20, 10]] * len(targets)
        assert task["tags"] == ["perceptok"]
        assert task["metrics"] == ["accuracy", "invalid", "unparsed"]
        assert task["generation"]["until"] == []
        letters = not name.endswith("_count")
        assert [result["accuracy"] for result in task["results"]] == [float(letters and t == "B") for t in targets]
        assert [result["unparsed"] for result in task["results"]] == [float(not letters)] * len(targets)
    assert tasks["perceptok_seed_count"]["hub"] == "lmms-lab-encoder/SEED-Bench"
