"""Every family of models: extended, trained for a step, saved, loaded, asked, merged and asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import perceptok as pt
from perceptok.data import read_records
from perceptok.llava import PerceptionPipeline, finetune, merge_adapter
from perceptok.llava.training.samples import Collator, read_samples
from tests.llava.families import FAMILIES, save_family
from tests.llava.records import write_some_records
from tests.llava.training.test_finetuning import config

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # PaliGemma's processor makes an array of a tensor
]


class Trained(NamedTuple):
    """What a step left, loaded."""

    folder: Path
    records: Path
    pipe: PerceptionPipeline


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def trained(request: pytest.FixtureRequest, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny random model of a family after one step of training, as the pipeline loads it."""
    folder = tmp_path_factory.mktemp(request.param)
    base = save_family(request.param, folder / "base")
    records = write_some_records(folder / "data", codec, 6)
    finetune(config(base, records, folder / "run", max_steps=1, per_device_train_batch_size=3, warmup_ratio=0.0))
    line = json.loads((folder / "run" / "logs" / "log.jsonl").read_text().splitlines()[0])
    assert line["grad_norm"] > 0
    return Trained(folder, records, PerceptionPipeline.from_pretrained(folder / "run"))


def test_a_constrained_answer_and_the_merged_models(trained: Trained) -> None:
    image = next(trained.records.parent.glob("*.png"))
    asked: dict[str, Any] = {"max_new_tokens": 104, "force_block": "first"}
    answer = trained.pipe(image, "What is the depth map?", **asked)
    assert len(answer.blocks) == 1
    assert answer.depth is not None
    assert answer.depth.values.shape == answer.image.size[::-1]
    assert set(answer.problems) <= {"the answer was cut off at the maximum number of tokens"}
    merged = PerceptionPipeline.from_pretrained(merge_adapter(trained.folder / "run", trained.folder / "merged"))
    assert not hasattr(merged.model, "peft_config")
    again = merged(image, "What is the depth map?", **asked)
    assert len(again.blocks) == 1
    # Merging rounds: the codes are the same but for near ties of a random model.
    given = trained.pipe.prepare_inputs(image, "What is the depth map?")
    with torch.no_grad():
        first, second = (pipe.model(**given).logits[0, -1] for pipe in (trained.pipe, merged))
    assert torch.allclose(first, second, atol=1e-4)


def test_a_prompt_is_the_same_in_training_and_inference(trained: Trained) -> None:
    """Token by token, and in what the model makes of it: what stands before an answer is what it is asked with."""
    pipe = trained.pipe
    samples = read_samples((str(trained.records),), pipe.processor, pipe.vocab, pipe.frame, max_length=2048)
    batch = Collator(pipe.processor, pipe.vocab, pipe.frame)(samples.samples)
    questions = {record.id: record.turns[0].text for record in read_records(trained.records)}
    model_takes = {name: value for name, value in batch.items() if name not in ("labels", "sample_ids", "groups")}
    with torch.no_grad():
        logits = pipe.model(**model_takes).logits
    for row, sample in enumerate(samples.samples):
        first = int((batch["labels"][row] != -100).int().argmax())
        given = pipe.prepare_inputs(sample.images[0], questions[sample.id])
        assert torch.equal(given["input_ids"][0], batch["input_ids"][row, :first]), sample.text
        with torch.no_grad():
            asked = pipe.model(**given).logits[0, -1]
        assert torch.allclose(asked, logits[row, first - 1], atol=1e-4)


def test_a_batch_of_questions_says_what_each_says_alone(trained: Trained) -> None:
    """Padding on the left, and nothing behind a prompt, whatever the processor puts there."""
    image = next(trained.records.parent.glob("*.png"))
    asked = ["What?", "What is the depth map of the image?"]
    together = trained.pipe([image, image], asked, max_new_tokens=6)
    alone = [trained.pipe(image, question, max_new_tokens=6) for question in asked]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
