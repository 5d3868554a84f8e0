"""What a share of instruction records costs and gains: depth codes and general text after the same number of updates.

Run by hand: python -m pytest tests/benchmarks/test_instruction_data.py -s -o addopts="" --import-mode=importlib (a
quarter of an hour on one thread; it needs the packages of `perceptok llava demo`).

The small LLaVA of the demonstration is first taught text: what functions of Python's standard library and of NumPy do,
by the first paragraphs of their docstrings. That is the ability it can forget. It is then fine-tuned by `finetune` to
write the depth map of rendered yards, with and without a share of these texts as instruction data. Measured are, on
scenes and functions that neither training saw, the cross entropy and accuracy of depth codes and the cross entropy of
the texts, given the true tokens before.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import perceptok as pt
from perceptok.data import Evidence, PerceptionRecord, Turn, write_records
from perceptok.depth import block_to_text
from perceptok.llava import FinetuneConfig, PerceptionPipeline, finetune
from perceptok.llava.small import ANSWER, QUESTION, DemoConfig, prepare_model, render_yard
from perceptok.llava.training.samples import Collator, read_samples
from perceptok.tokens import DEPTH

STEPS = int(os.environ.get("PERCEPTOK_STEPS", "100"))
TEXT_STEPS = int(os.environ.get("PERCEPTOK_TEXT_STEPS", "120"))
SCENES, HELD_OUT = 640, 64
BATCH, SIDE, WORDS = 16, 160, 60
MODULES = (
    *("argparse", "ast", "asyncio", "base64", "bisect", "calendar", "collections", "configparser", "contextlib", "csv"),
    *("dataclasses", "datetime", "decimal", "difflib", "email", "fractions", "functools", "gzip", "heapq", "html"),
    *("http.client", "inspect", "io", "itertools", "json", "locale", "logging", "math", "os", "os.path", "pathlib"),
    *("pickle", "platform", "pprint", "random", "re", "sched", "shutil", "socket", "sqlite3", "ssl", "statistics"),
    *("string", "struct", "subprocess", "sys", "tarfile", "tempfile", "textwrap", "threading", "time", "tokenize"),
    *("types", "typing", "unicodedata", "unittest", "urllib.parse", "urllib.request", "uuid", "warnings", "zipfile"),
    *("numpy", "numpy.fft", "numpy.linalg", "numpy.random", "numpy.polynomial"),
)


def describe_functions() -> list[tuple[str, str]]:
    """Questions about functions and classes, and the first paragraphs of their docstrings."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name, value in inspect.getmembers(importlib.import_module(module)):
            text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
            if not name.startswith("_") and callable(value) and 5 <= len(text.split()) <= WORDS and text.isascii():
                found.setdefault(text, f"What does {module}.{name} do in Python?")
    return [(question, text) for text, question in sorted(found.items(), key=lambda item: item[1])]


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Instruction records to train on, and every eighth as held-out ones."""
    texts = describe_functions()
    paths = []
    for name, kept in (("train", lambda n: n % 8), ("held-out", lambda n: not n % 8)):
        records = [
            PerceptionRecord(f"t{number}", (), (Turn("user", q), Turn("assistant", a)), "other", "instruction")
            for number, (q, a) in enumerate(texts)
            if kept(number)
        ]
        paths.append(folder / f"texts-{name}.jsonl")
        write_records(paths[-1], records)
    return paths[0], paths[1]


def write_scenes(folder: Path, codec: pt.DepthCodec, seed: int, count: int) -> Path:
    """Records that ask for the depth map of yards."""
    (folder / str(seed)).mkdir(parents=True)
    records = []
    for number in range(count):
        yard = render_yard(seed, number, SIDE)
        name = f"{seed}/{number}.png"
        Image.fromarray(yard.image).save(folder / name)
        codes = codec.encode(yard.nearness)[0]
        turns = (Turn("user", QUESTION), Turn("assistant", f"{ANSWER}{block_to_text(codes)}."))
        evidence = Evidence(tuple(int(code) for code in codes.ravel()), codec.fingerprint)
        records.append(PerceptionRecord(f"s{number}", (name,), turns, "depth", "atomic", evidence=evidence))
    write_records(folder / f"scenes-{seed}.jsonl", records)
    return folder / f"scenes-{seed}.jsonl"


def iterate_texts(path: Path, processor: Any, vocab: pt.PerceptionVocabulary) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of all texts again and again, in random order."""
    rendered = [pt.data.render_record(record, processor, vocab) for record in pt.data.read_records(path)]
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(rendered))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield collate_texts([rendered[index] for index in order[start : start + BATCH]])


def collate_texts(rendered: Sequence[Any]) -> dict[str, torch.Tensor]:
    longest = max(len(item.ids) for item in rendered)
    ids = torch.zeros(len(rendered), longest, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(rendered):
        tokens = torch.tensor(item.ids)
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        labels[row, : len(tokens)] = torch.where(torch.tensor(item.loss_mask, dtype=torch.bool), tokens, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def teach_texts(folder: Path, codec: pt.DepthCodec, texts: Path) -> Path:
    """The small LLaVA, its language model trained on texts, saved as the base of both runs."""
    model, processor, vocab = prepare_model(folder / "work", codec, DemoConfig())
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01)
    model.train()
    for step, batch in zip(range(TEXT_STEPS), iterate_texts(texts, processor, vocab), strict=False):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / TEXT_STEPS)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"texts, step {step}: loss {float(loss.detach()):.2f}", flush=True)
    model.eval()
    for part in (model, processor, vocab):
        part.save_pretrained(folder / "base")
    return folder / "base"


@torch.no_grad()
def measure_texts(model: Any, processor: Any, vocab: pt.PerceptionVocabulary, path: Path) -> np.ndarray:
    """Cross entropy of each held-out text, nats per token."""
    losses = []
    for record in pt.data.read_records(path):
        batch = collate_texts([pt.data.render_record(record, processor, vocab)])
        losses.append(float(model(**batch).loss))
    return np.array(losses)


@torch.no_grad()
def measure_depth(pipe: PerceptionPipeline, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cross entropy of the codes of each scene, nats per code, and the share of codes that are the most likely."""
    samples = read_samples((str(path),), pipe.processor, pipe.vocab, pipe.frame, max_length=2048)
    collate = Collator(pipe.processor, pipe.vocab, pipe.frame)
    losses, shares = [], []
    for start in range(0, len(samples), BATCH):
        batch = collate(samples.samples[start : start + BATCH])
        labels = batch.pop("labels")
        logits = pipe.model(**{k: v for k, v in batch.items() if k not in ("sample_ids", "groups")}).logits[:, :-1]
        truth = labels[:, 1:]
        mask = pipe.vocab.codes(truth, DEPTH) >= 0
        for row in range(len(truth)):
            scores, codes = logits[row][mask[row]].float(), truth[row][mask[row]]
            losses.append(float(F.cross_entropy(scores, codes)))
            shares.append(float((scores.argmax(-1) == codes).float().mean()))
    return np.array(losses), np.array(shares)


def show(values: np.ndarray) -> str:
    """The mean and its standard error."""
    return f"{values.mean():.3f} +- {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def report(results: dict[str, dict[str, np.ndarray]]) -> None:
    """Print means, and write all values where PERCEPTOK_RESULTS says."""
    for name, values in results.items():
        print(name, {kind: show(found) for kind, found in values.items()}, flush=True)
    if path := os.environ.get("PERCEPTOK_RESULTS"):
        lists = {name: {kind: found.tolist() for kind, found in values.items()} for name, values in results.items()}
        Path(path).write_text(json.dumps(lists))


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # of deprecated functions that are described
def test_a_share_of_instruction_data(tmp_path: Path) -> None:
    codec = pt.DepthCodec.from_pretrained()
    texts, held_out_texts = write_texts(tmp_path)
    scenes, held_out = (write_scenes(tmp_path, codec, seed, n) for seed, n in ((1, SCENES), (2, HELD_OUT)))
    base = teach_texts(tmp_path, codec, texts)
    model, processor, vocab = pt.load_llava(base, codec=codec, dtype=torch.float32)
    results: dict[str, dict[str, np.ndarray]] = {
        "base": {"text": measure_texts(model, processor, vocab, held_out_texts)}
    }
    for share in (None, 0.2):
        settings: dict[str, Any] = {
            "model_name_or_path": str(base),
            "records": [str(scenes)],
            "output_dir": str(tmp_path / f"share-{share}"),
            "frame": "squash",
            "lora": {"r": 64, "lora_alpha": 64},
            "learning_rate": 1e-3,
            "projector_learning_rate": 1e-3,
            "max_steps": STEPS,
            "per_device_train_batch_size": BATCH,
            "gradient_checkpointing": False,
            "dataloader_num_workers": 0,
            "save_steps": STEPS,
            "logging_steps": 25,
            "use_cpu": True,
            "monitoring": {"generate_steps": 0},
        }
        if share is not None:
            settings |= {"instruction_records": [str(texts)], "instruction_share": share}
        finetune(FinetuneConfig.from_dict(settings))
        pipe = PerceptionPipeline.from_pretrained(settings["output_dir"], dtype="float32")
        loss, accuracy = measure_depth(pipe, held_out)
        text = measure_texts(pipe.model, pipe.processor, pipe.vocab, held_out_texts)
        results[f"share {share or 0}"] = {"text": text, "codes": loss, "accuracy": accuracy}
        report(results)
    assert results["share 0.2"]["text"].mean() < results["share 0"]["text"].mean()
