"""A run: it learns, it goes on where it stopped, and it stops where it must."""

from __future__ import annotations

import _thread
import dataclasses
import json
import shutil
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import perceptok as pt
from perceptok.errors import ConfigError, MissingExtraError, OutputError, RecordError, TrainingError
from perceptok.llava import FinetuneConfig, dry_run, finetune
from perceptok.llava.training.finetuning import prepare_run
from perceptok.locks import find_hidden_path, lock_output
from tests.llava.records import write_some_records
from tests.llava.tiny import save_tiny_llava

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def records(codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen records."""
    return write_some_records(tmp_path_factory.mktemp("data"), codec)


def config(base: Path, records: Path, output: Path, **more: Any) -> FinetuneConfig:
    settings: dict[str, Any] = {
        "model_name_or_path": str(base),
        "records": [str(records)],
        "output_dir": str(output),
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        "learning_rate": 1e-2,
        "projector_learning_rate": 1e-3,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "save_steps": 2,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "monitoring": {"generate_steps": 0},
    }
    return FinetuneConfig.from_dict({**settings, **more})


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "logs" / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tiny_llava: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole")
    shown = {"generate_steps": 3, "num_records": 2}
    finetune(config(tiny_llava, records, output, monitoring=shown, report_to=["tensorboard"]))
    return output


def test_it_learns_and_says_so(whole: Path, tiny_llava: Path) -> None:
    found = losses(whole)
    assert len(found) == 6
    assert found[-1] < 0.95 * found[0]
    lines = [json.loads(line) for line in (whole / "logs" / "log.jsonl").read_text().splitlines()]
    assert {"loss/depth/atomic", "share/atomic", "learning_rate", "grad_norm"} <= lines[0].keys()
    assert [line["epoch"] for line in lines[:6]] == pytest.approx([step * 4 / 12 for step in range(1, 7)])
    rates = {name: lines[1][f"learning_rate/{name}"] for name in ("adapter", "token rows", "projector")}
    assert rates["adapter"] == rates["token rows"] == lines[1]["learning_rate"] > 0
    assert rates["projector"] == pytest.approx(rates["adapter"] / 10)
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss/cross_entropy"] + lines[0]["loss/distillation"], rel=1e-3)
    assert 0 <= lines[2]["valid/blocks"] <= 1
    assert list(whole.rglob("events.out*"))
    loaded = pt.llava.load_adapter(whole)
    assert loaded.config["max_steps"] == 6
    assert sorted(path.name for path in whole.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    pickled = {".bin", ".pt", ".pth", ".pkl"}
    assert not [path for path in whole.rglob("*") if path.suffix in pickled]
    # The tower and the old rows are as they were.
    base, now = load_file(tiny_llava / "model.safetensors"), load_file(whole / "adapter" / "adapter_model.safetensors")
    assert not [name for name in now if "vision" in name]
    assert any("multi_modal_projector" in name for name in now)
    assert all(weight.shape[0] == 466 for name, weight in now.items() if "token_adapter" in name)
    assert len(base) > len(now)


def test_interrupted_and_resumed(tiny_llava: Path, records: Path, whole: Path, tmp_path: Path) -> None:
    """A damaged image stops a run in mid-epoch; once restored and confirmed, it ends as if uninterrupted."""
    data = tmp_path / "data"
    shutil.copytree(records.parent, data)
    first = config(tiny_llava, data / "records.jsonl", tmp_path / "run")
    # Damaged is an image that the first four steps do not read, after the records are read.
    (data / "moved").mkdir()
    needed = drawn(first, 4)
    gone = next(path for path in sorted(data.glob("*.png")) if path.stem not in needed)
    gone.rename(data / "moved" / gone.name)
    gone.write_bytes((data / "moved" / gone.name).read_bytes()[:-40])  # the header is whole
    with pytest.raises(RecordError, match=rf"record 'r{gone.stem}'.*not a readable image"):
        finetune(first)
    assert (tmp_path / "run" / "checkpoint-4").exists()
    assert not (tmp_path / "run" / "adapter").exists()
    (data / "moved" / gone.name).replace(gone)
    with pytest.raises(TrainingError, match=rf"1 of 12 images changed .* such as .*{gone.name}; restore"):
        finetune(first)
    finetune(config(tiny_llava, data / "records.jsonl", tmp_path / "run", allow_changed_records=True))
    assert losses(tmp_path / "run") == losses(whole)
    assert read_lines(tmp_path / "run")[:-1] == [
        {name: value for name, value in line.items() if not name.startswith("valid/")}
        for line in read_lines(whole)[:-1]
    ]
    for name in sorted(path.name for path in (whole / "adapter").iterdir() if path.is_file()):
        if name != "perception_adapter.json":  # it names the folders
            assert (tmp_path / "run" / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes(), name
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (tmp_path / "run", whole))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    with pytest.raises(TrainingError, match="holds a finished run"):
        finetune(first)
    other = config(tiny_llava, data / "records.jsonl", tmp_path / "run", learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"another configuration: learning_rate was 0.01, now 0.001"):
        finetune(other)


def test_records_that_changed_are_refused_or_confirmed(
    tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And another run in the folder is refused, leftovers of killed ones are removed, and instructions are mixed in."""
    path = write_some_records(tmp_path / "data", codec)
    (tmp_path / "mix.json").write_text(
        json.dumps([{"id": "t", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}])
    )
    run = tmp_path / "run"
    more = {"max_steps": 2, "instruction_records": str(tmp_path / "mix.json"), "instruction_share": 0.5}
    settings = config(tiny_llava, path, run, save_steps=1, save_total_limit=None, **more)
    find_hidden_path(run / "checkpoint-1", "tmp").mkdir(parents=True)
    with lock_output(run), pytest.raises(OutputError, match=r"another process is writing .*run"):
        finetune(settings)
    finetune(settings)
    assert "'loss'" not in capsys.readouterr().out
    assert not list(run.glob(".*"))
    line = read_lines(run)[0]
    assert line["share/instruction"] == 0.5
    assert line["loss/other/instruction"] > 0
    assert line["epoch"] == pytest.approx(4 / 24)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-2")
    image = tmp_path / "data" / "3.png"
    before = image.read_bytes()
    Image.new("RGB", (40, 40), "red").save(image)
    with pytest.raises(
        TrainingError, match=r"1 of 12 images changed since .*checkpoint-1 was written, such as .*/3.png"
    ):
        dry_run(settings)
    image.write_bytes(before)  # the same image, whatever its time of modification
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(TrainingError, match=r"records.jsonl: the records changed since .*checkpoint-1 was written"):
        finetune(settings)
    with pytest.raises(TrainingError, match=r"records.jsonl: the records changed"):
        dry_run(settings)
    confirmed = dataclasses.replace(settings, allow_changed_records=True)
    assert finetune(confirmed).samples == 10
    assert "allow_changed_records" not in json.loads((run / "train.json").read_text())
    assert [line["step"] for line in read_lines(run)] == [1, 2, 2]
    fixed = config(tiny_llava, path, tmp_path / "fixed", **{**more, "curriculum": {"kind": "sequential"}})
    with pytest.raises(ConfigError, match="sequential is a fixed order, into which no instruction data is mixed"):
        finetune(fixed)
    assert not (tmp_path / "fixed").exists()


def test_an_interrupt_says_where_and_how_to_resume(
    tiny_llava: Path, records: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = tmp_path / "run"

    def interrupt() -> None:
        while not any(run.glob("checkpoint-*")):
            time.sleep(0.01)
        _thread.interrupt_main()

    # A background job of a shell starts with SIGINT ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    threading.Thread(target=interrupt, daemon=True).start()
    settings = config(tiny_llava, records, run, max_steps=3_000, save_steps=1)
    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted at step \d+; the same command resumes it from .*checkpoint"
    ):
        finetune(settings)
    assert not list(run.glob(".*"))


def drawn(settings: FinetuneConfig, steps: int) -> set[str]:
    """Numbers of the records that the first steps draw."""
    from perceptok.llava.training.sampling import MicroBatches

    run = prepare_run(settings)
    batches = list(MicroBatches(run.curriculum, batch_size=settings.per_device_train_batch_size))
    return {run.samples[index].id.removeprefix("r") for batch in batches[:steps] for index in batch}


def test_computing_activations_twice_changes_nothing(tiny_llava: Path, records: Path, tmp_path: Path) -> None:
    """Checkpointing and accumulation together against neither; and bf16 learns what float32 does, nearly."""
    shape = {"max_steps": 3, "lora": {"r": 4, "lora_dropout": 0.0}, "save_steps": 100}
    plain = {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    kinds: dict[str, dict[str, Any]] = {
        "plain": plain,
        "twice": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        # use_cpu as by default: without an accelerator it is set.
        "bf16": {**plain, "bf16": True, "use_cpu": torch.accelerator.is_available()},
    }
    for name, more in kinds.items():
        finetune(config(tiny_llava, records, tmp_path / name, **shape, **more))
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "twice"), rel=1e-5)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "bf16"), rel=3e-2)
    assert losses(tmp_path / "plain") != losses(tmp_path / "bf16")
    saved = load_file(tmp_path / "bf16" / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


@pytest.mark.parametrize(
    "more",
    [
        {"rows": "full", "projector_learning_rate": 0.0, "bf16": True},
        {"objective": {"teacher": "soft", "reconstruction": 1.0}, "gradient_checkpointing": False},
        {"curriculum": {"kind": "temperature"}, "frame": "letterbox", "init": "normal"},
        {"curriculum": {"kind": "proportional"}, "lora": {"r": 2, "target_modules": ["q_proj", "v_proj"]}},
        {"curriculum": {"kind": "sequential"}, "effective_batch_size": 8, "system": "A chat."},
    ],
)
def test_other_settings(tiny_llava: Path, records: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    result = finetune(config(tiny_llava, records, tmp_path / "run", max_steps=2, **more))
    assert result.steps == 2
    assert result.loss == result.loss  # no NaN
    assert pt.llava.load_adapter(result.adapter).frame.mode == more.get("frame", "squash")


@pytest.mark.parametrize(("tokens", "regimes"), [("depth", ["cot"]), ("boxes", ["direct"])])
def test_one_token_set_alone(tiny_llava: Path, records: Path, tmp_path: Path, tokens: str, regimes: list[str]) -> None:
    """The two models of AURORA: 130 tokens for depth, 336 for boxes."""
    result = finetune(config(tiny_llava, records, tmp_path / "run", max_steps=1, tokens=tokens, regimes=regimes))
    loaded = pt.llava.load_adapter(result.adapter)
    assert len(loaded.vocab.all_ids) == {"depth": 130, "boxes": 336}[tokens]
    pipe = pt.PerceptionPipeline.from_pretrained(result.adapter)
    assert pipe(records.parent / "0.png", "Which point is the closest?", max_new_tokens=4).text is not None


def test_a_loss_that_is_not_finite_names_its_records(records: Path, tmp_path: Path) -> None:
    base = save_tiny_llava(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    name = next(key for key in weights if key.endswith(("language_model.norm.weight", "model.norm.weight")))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1, in the batch of the records 'r\d+', 'r\d+'"):
        finetune(config(base, records, tmp_path / "run"))
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_board_that_is_not_installed_stops_it_at_once(tiny_llava: Path, records: Path, tmp_path: Path) -> None:
    settings = config(tiny_llava, records, tmp_path / "run", report_to=["wandb"])
    with pytest.raises(MissingExtraError, match=r"report_to: wandb needs wandb.*perceptok\[wandb\]"):
        finetune(settings)
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_fit(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    direct = write_some_records(tmp_path / "direct", codec, 3, regimes=("direct",))
    with pytest.raises(ConfigError, match=r"the list of 3 records that are not atomic, .* at most 2 of its 3 samples"):
        finetune(config(tiny_llava, direct, tmp_path / "run", curriculum={"kind": "aurora", "last": 0.5}))
    with pytest.raises(ConfigError, match=r"curriculum.others has no share for the regime direct; add it"):
        finetune(config(tiny_llava, direct, tmp_path / "run", curriculum={"others": {"cot": 1.0}}))
    with pytest.raises(TrainingError, match=r"no record to train on in .*: none of 3 is of the regimes atomic, cot"):
        finetune(config(tiny_llava, direct, tmp_path / "run", regimes=["atomic", "cot"]))
    with pytest.raises(ConfigError, match=r"effective_batch_size 6 is not a multiple of .* 4 x 1 processes"):
        config(tiny_llava, direct, tmp_path / "run", effective_batch_size=6)
    with pytest.raises(ConfigError, match=r"lora.target_modules are among .*q_proj.*; got x_proj"):
        finetune(config(tiny_llava, direct, tmp_path / "run", lora={"target_modules": ["x_proj"]}))
    mixed = {"curriculum": {"kind": "proportional"}}
    (tmp_path / "t.png").write_bytes(b"")
    with pytest.raises(OutputError, match=r"t.png/run: the run's folder cannot be made \(Not a directory\)"):
        finetune(config(tiny_llava, direct, tmp_path / "t.png" / "run", **mixed))
    with pytest.raises(ConfigError, match="unknown key in FinetuneConfig: rate; "):
        config(tiny_llava, direct, tmp_path, rate=1)


def test_the_optimizer_is_the_one_that_is_asked_for(tiny_llava: Path, records: Path, tmp_path: Path) -> None:
    shape = {"max_steps": 3, "lora": {"r": 2, "lora_dropout": 0.0}, "warmup_ratio": 0.0}
    for name, more in {"sgd": {"optim": "sgd"}, "adam": {}, "betas": {"adam_beta1": 0.1, "adam_beta2": 0.2}}.items():
        finetune(config(tiny_llava, records, tmp_path / name, **shape, **more))
    found = {name: losses(tmp_path / name) for name in ("sgd", "adam", "betas")}
    assert len({run[0] for run in found.values()}) == 1
    assert len({run[2] for run in found.values()}) == 3  # the first step of Adam does not depend on the betas
