"""The training loop of the small LLaVA: a resumed training is the training that was not interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perceptok.errors import CheckpointError, ConfigError
from perceptok.llava.small import DemoConfig, SmallLlavaConfig, SmallTraining, optimize

CONFIG = SmallTraining(max_steps=9, batch_size=4, eval_steps=4, save_steps=3, bf16=False)
SCENES = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["max_steps", "batch_size", "eval_steps", "save_steps", "learning_rate"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*; got 0"):
        SmallTraining(**{name: 0})
    with pytest.raises(ConfigError, match="held_out is a number of scenes of at least 1; got 0"):
        DemoConfig(held_out=0)
    with pytest.raises(ConfigError, match="temperature is above 0"):
        DemoConfig(temperature=float("nan"))
    for width in (0, 16, 100):
        with pytest.raises(ConfigError, match=f"hidden_size is a multiple of 32; got {width}"):
            SmallLlavaConfig(hidden_size=width)


class Model(nn.Module):
    """A tower that is not trained, and one layer that is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.vision_tower = nn.Linear(5, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, scenes: Tensor) -> Tensor:
        return self.head(self.model.vision_tower(SCENES[scenes])).square().mean()  # type: ignore[no-any-return]


class StoppedError(Exception):
    pass


def train(
    path: Path | None, stop_at: int | None = None, config: SmallTraining = CONFIG
) -> tuple[Model, list[tuple[float, ...]]]:
    model = Model()
    steps = 0

    def advance(_: str) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise StoppedError

    curve = optimize(model, len(SCENES), model, lambda: (0.5, 0.25), CONFIG, advance, checkpoint=path)
    assert steps == CONFIG.max_steps
    return model, [(point.step, point.loss) for point in curve]


@pytest.mark.parametrize("stop_at", [1, 3, 5, 8])
def test_a_resumed_training_has_the_same_result(tmp_path: Path, stop_at: int) -> None:
    expected, curve = train(None)
    path = tmp_path / "training.safetensors"
    with pytest.raises(StoppedError):
        train(path, stop_at)
    assert path.exists() == (stop_at > 3)
    model, resumed_curve = train(path)
    assert resumed_curve == curve
    assert [step for step, _ in curve] == [4, 8, 9]
    for (name, value), other in zip(expected.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    # Finished, it trains nothing more.
    again, same_curve = train(path)
    assert same_curve == curve
    assert torch.equal(again.head.weight, expected.head.weight)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "training.safetensors"
    train(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        from safetensors.torch import save_file

        save_file({"0.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"no training can be resumed from it .*; remove it to start over"):
        train(path)
