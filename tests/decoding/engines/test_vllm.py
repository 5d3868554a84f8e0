"""The vLLM processors: every row of a server's batch as `PerceptionLogitsProcessor` masks it alone.

The logic is tested with the fields that vLLM 0.33 hands over. That the classes fit vLLM's own is tested where vLLM can
be imported, or where PERCEPTOK_VLLM_SOURCE names a folder with the Python files of its wheel (the V2 interface alone is
read).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import random
import sys
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import perceptok as pt
import perceptok.decoding.engines.vllm as adapter
from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor, compile_grammar
from perceptok.errors import ConfigError, ConstraintError, MissingExtraError
from tests.decoding.engines.engine_cases import CONFIGS, ORDERED, answer, steps, tokenizer, vocabulary

WIDTH = 768
SERVED = {
    "ordered": GrammarConfig(),
    "compact ordered": GrammarConfig(boxes="compact"),
    "limits": CONFIGS["limits"],
    "first a block": CONFIGS["first a block"],
    "first text": CONFIGS["first text"],
    "a block somewhere": CONFIGS["a block somewhere"],
    "compact limits": CONFIGS["compact limits"],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The part of a vLLM configuration that is read."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(folder)
    model = SimpleNamespace(tokenizer=str(folder), tokenizer_revision=None, trust_remote_code=False)
    return SimpleNamespace(model_config=model)


def parameters(config: GrammarConfig | None, max_tokens: int | None = None) -> Any:
    return SimpleNamespace(extra_args=config and {"perceptok": config.to_dict()}, max_tokens=max_tokens)


def requests(seed: int, count: int = 6) -> list[tuple[GrammarConfig | None, list[int], list[int], int | None]]:
    """(grammar, prompt, answer so far, budget); every third request has no grammar."""
    chance, made = random.Random(seed), []
    for number in range(count):
        config = None if number % 3 == 2 else chance.choice(list(SERVED.values()))
        grammar = compile_grammar(config)
        history = answer(compile_grammar(GrammarConfig(boxes=grammar.config.boxes)), chance.randrange(999), 4)
        prompt = [0, *history] if chance.random() < 0.5 else [0]
        if chance.random() < 0.3 and grammar.config.first == "any" and grammar.config.force_block != "first":
            prompt += [vocabulary().start_id(pt.tokens.DEPTH), *vocabulary().ids(pt.tokens.DEPTH)[:7].tolist()]
            written = vocabulary().ids(pt.tokens.DEPTH)[: chance.choice([0, 1, 93])].tolist()
        else:
            written = [token for _, token in steps(grammar, chance.randrange(999), chance.choice([0, 1, 2, 9, 120]))]
        budget = chance.choice([None, 400, len(written) + chance.choice([1, 2, 5, 103, 150])])
        made.append((config, prompt, written, budget))
    return made


@cache
def made(config: GrammarConfig) -> PerceptionLogitsProcessor:
    return PerceptionLogitsProcessor(vocabulary(), config, tokenizer=tokenizer())


def alone(
    config: GrammarConfig, prompt: list[int], written: list[int], budget: int | None, row: torch.Tensor
) -> torch.Tensor:
    """The row of logits as a call of `generate` would mask it."""
    processor = made(config)
    least = processor.grammar.count_tokens_to_end(processor.grammar.initial)
    request_processor = processor.for_prompt(len(prompt), None if budget is None or budget < least else budget)
    return request_processor(torch.tensor([prompt + written]), row[None])[0]


class Runner:
    """The buffers of the V2 runner, by their names in vLLM."""

    def __init__(self, slots: int, length: int) -> None:
        self.all_token_ids = SimpleNamespace(gpu=torch.full((slots, length), 7, dtype=torch.int32))
        self.prompt_len = SimpleNamespace(np=np.zeros(slots, dtype=np.int32))
        self.total_len = SimpleNamespace(gpu=torch.zeros(slots, dtype=torch.int32))

    def write(self, slot: int, prompt: list[int], written: list[int]) -> None:
        ids = torch.tensor(prompt + written, dtype=torch.int32)
        self.all_token_ids.gpu[slot, : len(ids)] = ids
        self.prompt_len.np[slot], self.total_len.gpu[slot] = len(prompt), len(ids)


def context(slots: list[int], lengths: list[int], drafts: list[list[int]], last: list[int]) -> Any:
    """A step of the V2 runner: a row for every request, and another for every draft token."""
    rows = [
        (slot, length, place)
        for slot, length, more in zip(slots, lengths, drafts, strict=True)
        for place in range(len(more) + 1)
    ]
    fed = [token for one, more in zip(last, drafts, strict=True) for token in (one, *more)]
    return SimpleNamespace(
        expanded_idx_mapping=torch.tensor([slot for slot, _, _ in rows], dtype=torch.int32),
        idx_mapping=torch.tensor(slots, dtype=torch.int32),
        idx_mapping_np=np.array(slots, dtype=np.int32),
        expanded_local_pos=torch.tensor([place for _, _, place in rows], dtype=torch.int32),
        input_ids=torch.tensor(fed, dtype=torch.int32),
        pos=torch.tensor([length - 1 + place for _, length, place in rows]),
        seq_lens_upper_bound_np=np.array([length + len(more) for length, more in zip(lengths, drafts, strict=True)]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_v2_masks_every_row_as_alone(served: Any, seed: int) -> None:
    batch, runner = requests(seed), Runner(9, 600)
    processor = adapter._V2(served, runner)
    slots = random.Random(seed).sample(range(9), len(batch))
    for slot, (config, prompt, written, budget) in zip(slots, batch, strict=True):
        runner.write(slot, prompt, written)
        assert processor.add_request(slot, parameters(config, budget)) == (config is not None)
    lengths = [len(prompt) + len(written) for _, prompt, written, _ in batch]
    last = [(prompt + written)[-1] for _, prompt, written, _ in batch]
    logits = torch.randn(len(batch), WIDTH, generator=torch.Generator().manual_seed(seed))
    held = processor.apply(logits.clone(), context(slots, lengths, [[]] * len(batch), last))
    for row, (config, prompt, written, budget) in enumerate(batch):
        expected = logits[row] if config is None else alone(config, prompt, written, budget, logits[row])
        assert torch.equal(held[row], expected), (row, config, budget)


@pytest.mark.parametrize("seed", range(6))
def test_v2_sees_draft_tokens(served: Any, seed: int) -> None:
    """Under speculative decoding row k of a request follows k draft tokens, which are only in the step's input."""
    runner, grammar = Runner(4, 600), compile_grammar(SERVED["limits"])
    processor = adapter._V2(served, runner)
    whole = [token for _, token in steps(grammar, seed, 40)]
    cuts, drafted, slots = [0, 11, 29], [3, 0, 5], [2, 0, 3]
    for slot, cut in zip(slots, cuts, strict=True):
        runner.write(slot, [0, 5], whole[:cut])
        processor.add_request(slot, parameters(grammar.config, 400))
    drafts = [whole[cut : cut + count] for cut, count in zip(cuts, drafted, strict=True)]
    step = context(slots, [2 + cut for cut in cuts], drafts, [([5, *whole])[cut] for cut in cuts])
    logits = torch.randn(len(step.pos), WIDTH)
    held = processor.apply(logits.clone(), step)
    prefixes = [whole[: cut + more] for cut, count in zip(cuts, drafted, strict=True) for more in range(count + 1)]
    for row, prefix in enumerate(prefixes):
        assert torch.equal(held[row], alone(grammar.config, [0, 5], prefix, 400, logits[row])), row


def test_v2_slots_are_reused(served: Any) -> None:
    runner = Runner(2, 600)
    processor = adapter._V2(served, runner)
    runner.write(1, [0], [])
    processor.add_request(1, parameters(GrammarConfig(force_block="first")))
    logits = torch.zeros(1, WIDTH)
    step = context([1], [1], [[]], [0])
    assert processor.apply(logits.clone(), step).isinf().sum() == WIDTH - 1
    assert not processor.add_request(1, parameters(None))
    assert not processor.apply(logits.clone(), step).isinf().any()


class Direction(Enum):
    UNIDIRECTIONAL = 0
    SWAP = 1


def update(removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return SimpleNamespace(batch_size=0, removed=removed, added=added, moved=moved)


@pytest.mark.parametrize("seed", range(8))
def test_v1_masks_every_row_as_alone(served: Any, seed: int) -> None:
    batch = requests(seed)
    processor = adapter._V1(served, torch.device("cpu"), is_pin_memory=False)
    outputs: list[list[int]] = [[] for _ in batch]
    added = [
        (row, parameters(config, budget), prompt, outputs[row]) for row, (config, prompt, _, budget) in enumerate(batch)
    ]
    processor.update_state(update(added=added))
    for output, (_, _, written, _) in zip(outputs, batch, strict=True):
        output.extend(written)  # the engine lengthens the list that it handed over
    processor.update_state(None)
    logits = torch.randn(len(batch), WIDTH)
    held = processor.apply(logits.clone())
    for row, (config, prompt, written, budget) in enumerate(batch):
        expected = logits[row] if config is None else alone(config, prompt, written, budget, logits[row])
        assert torch.equal(held[row], expected), (row, config, budget)


def test_v1_follows_requests_through_the_batch(served: Any) -> None:
    processor = adapter._V1(served, torch.device("cpu"), is_pin_memory=False)
    forced, free = parameters(GrammarConfig(force_block="first")), parameters(None)
    processor.update_state(update(added=[(0, forced, [0], []), (1, free, [0], []), (2, forced, None, [])]))

    def held() -> list[int]:
        return [row for row, one in enumerate(processor.apply(torch.zeros(3, WIDTH))) if bool(one.isinf().any())]

    assert held() == [0, 2]
    processor.update_state(update(moved=[(0, 1, Direction.SWAP)]))
    assert held() == [1, 2]
    processor.update_state(update(removed=[1], moved=[(2, 0, Direction.UNIDIRECTIONAL)]))
    assert held() == [0]
    processor.update_state(update(added=[(0, free, [0], [])]))
    assert held() == []


@pytest.mark.parametrize("kind", [adapter._V1, adapter._V2])
def test_requests_are_checked_on_arrival(kind: Any) -> None:
    kind.validate_params(parameters(None))
    kind.validate_params(SimpleNamespace(extra_args={"perceptok": 1}, max_tokens=1))
    kind.validate_params(SimpleNamespace(extra_args={"perceptok": '{"max_blocks": 1}'}, max_tokens=1))
    for wrong, message in (("yes", "not valid JSON"), (2.5, "true or the keys"), ({"max_block": 1}, "max_block")):
        with pytest.raises(ValueError, match=message) as raised:
            kind.validate_params(SimpleNamespace(extra_args={"perceptok": wrong}, max_tokens=9))
        assert isinstance(raised.value, ConstraintError | ConfigError)
    with pytest.raises(ConstraintError, match="at least 102 tokens"):
        kind.validate_params(parameters(GrammarConfig(force_block="first"), max_tokens=101))


def test_a_malformed_prompt_is_continued_as_text_with_a_warning(served: Any) -> None:
    processor = adapter._V1(served, torch.device("cpu"), is_pin_memory=False)
    broken = [vocabulary().start_id(pt.tokens.DEPTH), 5]
    with pytest.warns(UserWarning, match="continued as text"):
        processor.update_state(update(added=[(0, parameters(ORDERED["ordered"]), broken, [])]))
    assert processor.apply(torch.zeros(1, WIDTH))[0, 5] == 0


# vLLM's own interface ------------------------------------------------------------------------------------------------


@pytest.fixture
def interface(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`vllm.v1.worker.gpu.sample.logits_processor`, from vLLM or from the file of its wheel."""
    name = "vllm.v1.worker.gpu.sample.logits_processor"
    if importlib.util.find_spec("vllm"):
        return importlib.import_module(name)
    source = os.environ.get("PERCEPTOK_VLLM_SOURCE")
    if not source:
        pytest.skip("vLLM is not installed, and PERCEPTOK_VLLM_SOURCE names no folder with its Python files")
    file = Path(source, *name.split("."), "interface.py")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    parts = name.split(".")
    for length in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:length]), ModuleType(parts[length - 1]))
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    adapter.__getattr__.cache_clear()
    return module


def test_v2_fits_the_interface(interface: ModuleType, served: Any) -> None:
    ours = adapter.VllmLogitsProcessor
    assert issubclass(ours, interface.LogitsProcessor)
    assert not ours.__abstractmethods__
    assert adapter.VllmLogitsProcessor is ours
    assert pickle.loads(pickle.dumps(ours)) is ours  # noqa: S301
    theirs = {
        name for name, value in vars(interface.LogitsProcessor).items() if callable(getattr(value, "__func__", value))
    }
    assert {"add_request", "apply", "apply_staged_writes", "validate_params"} <= theirs
    runner = Runner(2, 600)
    runner.write(0, [0], [])
    states = interface.LogitsProcRequestState(
        device=torch.device("cpu"), max_num_reqs=2, vocab_size=WIDTH, prefill_len=None, **vars(runner)
    )
    processor = ours(served, states)
    processor.add_request(0, parameters(GrammarConfig(force_block="first")))
    processor.apply_staged_writes()
    step = interface.LogitsContext(**vars(context([0], [1], [[]], [0])))
    assert processor.apply(torch.zeros(1, WIDTH), step).isinf().sum() == WIDTH - 1


def test_vllms_own_loaders_take_the_classes(served: Any) -> None:
    loader = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor.loader", reason="vLLM is not installed")
    (second,) = loader._load_v2_logitsprocs_by_fqcns(["perceptok.decoding.engines.vllm:VllmLogitsProcessor"])
    assert second is adapter.VllmLogitsProcessor
    with pytest.raises(ValueError, match="not a subclass"):
        loader._load_v2_logitsprocs_by_fqcns(["perceptok.decoding.engines.vllm:_V1"])
    first = pytest.importorskip("vllm.v1.sample.logits_processor", reason="vLLM's V1 sampler needs more of vLLM")
    (one,) = first._load_logitsprocs_by_fqcns(["perceptok.decoding.engines.vllm:VllmLogitsProcessorV1"])
    processor = one(served, torch.device("cpu"), False)
    builder = first.BatchUpdateBuilder()
    builder.added.append((0, parameters(GrammarConfig(force_block="first")), [0], []))
    processor.update_state(builder.get_and_reset(1))
    assert processor.apply(torch.zeros(1, WIDTH)).isinf().sum() == WIDTH - 1


@pytest.mark.parametrize("seed", range(6))
def test_v1_in_vllms_own_batch(served: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests join, end and change places in vLLM's own batch, which closes gaps as its V1 runner does."""
    batches = pytest.importorskip("vllm.v1.worker.gpu_input_batch", reason="vLLM's V1 runner is not installed")
    sampler, sampling = (
        importlib.import_module(f"vllm.{name}") for name in ("v1.sample.logits_processor", "sampling_params")
    )
    for module in [one for name, one in sys.modules.items() if name.startswith("vllm.") and hasattr(one, "PIN_MEMORY")]:
        monkeypatch.setattr(module, "PIN_MEMORY", False)  # pinned memory needs a GPU
    cpu, chance = torch.device("cpu"), random.Random(seed)
    processor = adapter.VllmLogitsProcessorV1(served, cpu, False)
    batch = batches.InputBatch(8, 1024, 1024, cpu, WIDTH, [16], [64], logitsprocs=sampler.LogitsProcessors([processor]))
    running: dict[str, tuple[GrammarConfig | None, list[int], list[int], int | None]] = {}
    for step, request in enumerate(requests(seed, 40)):
        for name in [name for name in running if chance.random() < 0.25]:
            batch.remove_request(name)
            del running[name]
        if len(running) < 8:
            config, prompt, written, budget = request
            arguments = {"perceptok": config.to_dict()} if config else None
            params = sampling.SamplingParams(temperature=0, max_tokens=budget, extra_args=arguments)
            output: list[int] = []
            state = batches.CachedRequestState(
                req_id=str(step),
                prompt_token_ids=prompt,
                mm_features=[],
                sampling_params=params,
                generator=None,
                block_ids=([],),
                num_computed_tokens=0,
                output_token_ids=output,
            )
            batch.add_request(state)
            running[str(step)] = (config, prompt, output, budget)
            output.extend(written)
        batch.condense()
        if len(running) > 1 and chance.random() < 0.5:
            batch.swap_states(*chance.sample(range(len(running)), 2))
        batch.refresh_metadata()
        logits = torch.randn(len(running), WIDTH)
        held = processor.apply(logits.clone())
        for name, (config, prompt, written, budget) in running.items():
            row = batch.req_id_to_index[name]
            expected = logits[row] if config is None else alone(config, prompt, written, budget, logits[row])
            assert torch.equal(held[row], expected), (step, name)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm() -> None:
    adapter.__getattr__.cache_clear()
    with pytest.raises(MissingExtraError, match="needs vllm"):
        _ = adapter.VllmLogitsProcessorV1
    with pytest.raises(AttributeError, match="no attribute 'Processor2'"):
        _ = adapter.Processor2  # type: ignore[attr-defined]
