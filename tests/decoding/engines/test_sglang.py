"""The SGLang processor: every row of a server's batch as `PerceptionLogitsProcessor` masks it alone.

The logic is tested with the fields that SGLang 0.5.23 hands over; that the class fits SGLang's own where SGLang can be
imported.
"""

from __future__ import annotations

import importlib.util
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import perceptok.decoding.engines.sglang as adapter
from perceptok.decoding import GrammarConfig
from perceptok.errors import ConfigError, ConstraintError, MissingExtraError
from tests.decoding.engines.engine_cases import tokenizer
from tests.decoding.engines.test_vllm import WIDTH, alone, requests


def parameters(
    config: GrammarConfig | None, prompt: list[int], written: list[int], budget: int | None
) -> dict[str, Any]:
    """A request's custom parameters as the scheduler passes them, with the request in them."""
    request = SimpleNamespace(
        tokenizer=tokenizer(),
        origin_input_ids=array("q", prompt),
        output_ids=array("q", written),
        sampling_params=SimpleNamespace(max_new_tokens=budget),
    )
    return {"__req__": request} | ({"perceptok": config.to_dict()} if config else {})


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_masked_as_alone(seed: int) -> None:
    batch = requests(seed)
    given = [parameters(*one) for one in batch]
    processor = adapter._Logic()
    logits = torch.randn(len(batch) + 1, WIDTH)
    for _ in range(2):  # the second time what the prompt left open is known
        held = processor(logits.clone(), [*given, None])
        for row, (config, prompt, written, budget) in enumerate(batch):
            expected = logits[row] if config is None else alone(config, prompt, written, budget, logits[row])
            assert torch.equal(held[row], expected), (row, config, budget)
        assert torch.equal(held[-1], logits[-1])


def test_a_batch_without_grammars() -> None:
    logits = torch.randn(2, WIDTH)
    assert torch.equal(adapter._Logic()(logits.clone(), None), logits)
    assert torch.equal(adapter._Logic()(logits.clone(), [None, {"other": 1}]), logits)


def test_speculation_and_wrong_grammars_are_refused() -> None:
    params = parameters(GrammarConfig(), [0], [], None)
    with pytest.raises(ConstraintError, match="without speculative decoding"):
        adapter._Logic()(torch.zeros(2, WIDTH), [params, params])
    params["perceptok"] = {"max_block": 1}
    with pytest.raises(ConfigError, match="max_block"):
        adapter._Logic()(torch.zeros(1, WIDTH), [params])
    with pytest.raises(ConstraintError, match="at least 102"):
        adapter.build_sglang_request({"max_new_tokens": 20}, GrammarConfig(force_block="first"))


def test_sglangs_own_interface_takes_the_class() -> None:
    theirs = pytest.importorskip("sglang.srt.sampling.custom_logit_processor", reason="SGLang is not installed")
    fields = adapter.build_sglang_request(
        {"max_new_tokens": 300, "custom_params": {"mine": 1}}, GrammarConfig(force_block="first")
    )
    assert fields["sampling_params"]["custom_params"].keys() == {"mine", "perceptok"}
    processor = theirs.CustomLogitProcessor.from_str(fields["custom_logit_processor"])
    assert isinstance(processor, theirs.CustomLogitProcessor)
    params = parameters(None, [0], [], 300) | fields["sampling_params"]["custom_params"]
    assert processor(torch.zeros(1, WIDTH), [params]).isinf().sum() == WIDTH - 1


@pytest.mark.skipif(importlib.util.find_spec("sglang") is not None, reason="SGLang is installed")
def test_without_sglang() -> None:
    with pytest.raises(MissingExtraError, match="needs sglang"):
        adapter.build_sglang_request({})
    with pytest.raises(AttributeError, match="no attribute 'Processor2'"):
        _ = adapter.Processor2  # type: ignore[attr-defined]
