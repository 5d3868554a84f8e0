"""Direct labels against perception tokens: the same model, the same scenes, as many updates.

    perceptok llava demo -o perceptok-demo/llava           # perception tokens
    python examples/aurora_small/compare.py perceptok-demo/llava      # direct labels, from the same start

Both start from the model that the demo built, and see the same training scenes as often. One learns to write depth
blocks, and the nearest of n marked points is read from the decoded map; the other learns to answer with a letter, the
points' coordinates being given in the question as PIXEL tokens. Figures go to compare.json in the folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import perceptok as pt
from perceptok.configs import config_from_dict
from perceptok.files import atomic_write
from perceptok.llava.small.demo import DemoConfig, held_out_views, starting_model, training_views
from perceptok.llava.small.samples import prompt_ids
from perceptok.llava.small.scoring import marked_points
from perceptok.llava.small.training import optimise
from perceptok.llava.small.views import Views

LETTERS = "ABCDE"


def question_about(nearness: np.ndarray, count: int, rng: np.random.Generator) -> tuple[str, int] | None:
    """A question about marked points and the number of the nearest; None where no points fit."""
    points = marked_points(nearness, count, rng)
    if points is None:
        return None
    frame = points * 336 // len(nearness)
    named = [f"{letter}(<PIXEL_{x}>,<PIXEL_{y}>)" for letter, (x, y) in zip(LETTERS, frame.tolist(), strict=False)]
    levels = nearness[points[:, 1], points[:, 0]]
    return f"Which point is the closest to the camera? {' '.join(named)}", int(np.argmax(levels))


def letter_batch(processor: Any, asked: list[tuple[str, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, labels (the answer alone) and attention mask."""
    prompts = [prompt_ids(processor, question, answer="(") for question, _ in asked]
    ends = [processor.tokenizer(f"{LETTERS[nearest]}", add_special_tokens=False)["input_ids"] for _, nearest in asked]
    length = max(map(len, prompts)) + 1
    ids = torch.full((len(prompts), length), int(processor.tokenizer.pad_token_id))
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        ids[row, : len(prompt) + 1] = torch.tensor(prompt + end)
        labels[row, len(prompt)] = end[0]
        mask[row, : len(prompt) + 1] = 1
    return ids, labels, mask


def scores_of(model: Any, processor: Any, asked: list[tuple[str, int]], features: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the answers' places (B, V), and the answers' ids (B,)."""
    ids, labels, mask = letter_batch(processor, asked)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask, pixel_values=features).last_hidden_state
        answered = (labels != -100).roll(-1, dims=1)
        logits = model.lm_head(hidden[answered])
    return logits.float(), labels[labels != -100]


def ask_all(views: Views, count: int) -> tuple[list[int], list[tuple[str, int]]]:
    """One question with so many points about every view that has room for them."""
    found = [
        (number, question_about(depth.astype(np.float32), count, np.random.default_rng([count, number])))
        for number, depth in enumerate(views.nearness)
    ]
    return [n for n, one in found if one is not None], [one for _, one in found if one is not None]


def main() -> None:
    """Train on direct labels, measure, and set the figures beside the demo's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a finished demo")
    parser.add_argument("--steps", type=int, help="updates; as many as the demo's by default")
    options = parser.parse_args()
    told = json.loads((options.folder / "result.json").read_text())
    config = config_from_dict(DemoConfig, told["config"])
    codec = pt.DepthCodec.from_pretrained()
    model, processor, _ = starting_model(options.folder, codec, config)
    known = training_views(options.folder, codec, config, model)
    held_out = held_out_views(options.folder, codec, config, model)
    letters = torch.tensor(
        [processor.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in LETTERS]
    )
    rng = np.random.default_rng(config.training.seed)

    def loss_of(chosen: Tensor) -> Tensor:
        asked, rows = [], []
        for number in chosen.tolist():
            one = question_about(known.nearness[number].astype(np.float32), int(rng.integers(2, 6)), rng)
            if one is not None:
                asked.append(one)
                rows.append(number)
        logits, answers = scores_of(model, processor, asked, known.features[rows].float())
        return F.cross_entropy(logits, answers)

    tests = {count: ask_all(held_out, count) for count in (2, 3, 4, 5)}

    @torch.no_grad()
    def accuracy_at(count: int) -> float:
        rows, asked = tests[count]
        logits, _ = scores_of(model, processor, asked, held_out.features[rows].float())
        nearest = torch.tensor([answer for _, answer in asked])
        return float((logits[:, letters[:count]].argmax(-1) == nearest).float().mean())

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        rows, asked = tests[3]
        logits, answers = scores_of(model, processor, asked, held_out.features[rows].float())
        return float(F.cross_entropy(logits, answers)), accuracy_at(3)

    training = config.training
    if options.steps:
        training = type(training)(**{**asdict(training), "steps": options.steps})
    curve = optimise(model, len(known), loss_of, measure, training)
    direct = {str(count): accuracy_at(count) for count in tests}
    print("points | direct labels | read from generated depth | mean map | chance")
    for count, value in direct.items():
        print(
            f"{count} | {value:.1%} | {told['order'][count]:.1%} | {told['chance'][count]:.1%} | {1 / int(count):.1%}"
        )
    with atomic_write(options.folder / "compare.json", force=True) as file:
        values = {"direct": direct, "perception": told["order"], "curve": [asdict(one) for one in curve]}
        file.write((json.dumps(values, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
