"""SGLang: a custom logit processor.

The server is started with `--enable-custom-logit-processor --disable-overlap-schedule` (with overlap the newest token
is not in the request's ids yet when the next one is masked) and has perceptok installed; a request carries the class's
name:

    from perceptok.decoding import build_sglang_request
    engine.generate(prompt, **build_sglang_request({"max_new_tokens": 256}, GrammarConfig(max_blocks=1)))

Without custom code, `build_structural_tag` does most of this: the processor adds the token budget, prompts that leave a
block open, and the order of both coordinates at no cost. Speculative decoding is refused, for SGLang shows its
processors no draft tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from perceptok.decoding.engines import serving
from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.errors import ConstraintError, MissingExtraError

if TYPE_CHECKING:
    SglangLogitProcessor: Any

__all__ = ["SglangLogitProcessor", "build_sglang_request"]


_TAIL = "__perceptok_tail__"


def build_sglang_request(sampling_params: Mapping[str, Any], config: GrammarConfig | None = None) -> dict[str, Any]:
    """The fields of a constrained request to SGLang: `sampling_params` and `custom_logit_processor`.

    Args:
        sampling_params: The request's own; other `custom_params` in it are kept.
        config: The grammar; by default that of the served tokenizer: depth and AURORA boxes where it has their tokens.

    Raises:
        ConstraintError: `max_new_tokens` is less than what is forced.
        MissingExtraError: SGLang is not installed.
    """
    serving.check_budget(config, sampling_params.get("max_new_tokens"))
    constraints = {serving.REQUEST_KEY: True if config is None else config.to_dict()}
    custom_params = {**(sampling_params.get("custom_params") or {}), **constraints}
    return {
        "sampling_params": {**sampling_params, "custom_params": custom_params},
        "custom_logit_processor": __getattr__("SglangLogitProcessor").to_str(),
    }


class _Logic:
    """`sglang.srt.sampling.custom_logit_processor.CustomLogitProcessor`: the engine hands over the requests."""

    def __init__(self) -> None:
        self._processors: serving.ProcessorCache | None = None

    def __call__(self, logits: Tensor, custom_param_list: list[dict[str, Any] | None] | None = None) -> Tensor:
        """Mask rows of logits (B, V) in place: those whose parameters ask for it."""
        rows = {row: params for row, params in enumerate(custom_param_list or ()) if params and "__req__" in params}
        if len({id(params) for params in rows.values()}) < len(rows):
            raise ConstraintError("SGLang shows its processors no draft tokens; serve without speculative decoding")
        requests = {row: self._read(params) for row, params in rows.items()}
        serving.constrain_requests({row: request for row, request in requests.items() if request}, logits)
        return logits

    def _read(self, params: dict[str, Any]) -> serving.ServedRequest | None:
        request = params["__req__"]
        if self._processors is None:
            self._processors = serving.ProcessorCache(request.tokenizer)
        processor = self._processors.find(params)
        if processor is None:
            return None
        if _TAIL not in params:  # the prompt is read once; the result goes with the request
            params[_TAIL] = serving.find_open_tail(processor, request.origin_input_ids)
        max_tokens = request.sampling_params.max_new_tokens
        return serving.ServedRequest(processor, params[_TAIL], request.output_ids, max_tokens)


@cache
def __getattr__(name: str) -> Any:
    """The class is made when its name is first used, because its base class is SGLang's."""
    if name != "SglangLogitProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sglang":
            raise
        raise MissingExtraError("sglang", "sglang", f"perceptok.decoding.engines.sglang.{name}") from error
    return type(name, (_Logic, CustomLogitProcessor), {"__module__": __name__, "__doc__": _Logic.__doc__})
