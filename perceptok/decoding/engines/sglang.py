"""SGLang: a custom logit processor.

The server is started with `--enable-custom-logit-processor --disable-overlap-schedule` (with overlap the newest token
is not in the request's ids yet when the next one is masked) and has perceptok installed; what travels is the class's
name:

    from perceptok.decoding.engines.sglang import request_fields
    engine.generate(prompt, **request_fields({"max_new_tokens": 256}, GrammarConfig(max_blocks=1)))

Without custom code, `perception_structural_tag` does most of this: the processor adds the budget, prompts that leave a
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
    PerceptionLogitProcessor: Any

__all__ = ["PerceptionLogitProcessor", "request_fields"]


_TAIL = "__perceptok_tail__"


def request_fields(sampling_params: Mapping[str, Any], config: GrammarConfig | None = None) -> dict[str, Any]:
    """What a request to SGLang needs to be held: `sampling_params` and `custom_logit_processor`.

    Args:
        sampling_params: The request's own; other `custom_params` in it are kept.
        config: The grammar; without it, the default of the served tokenizer.

    Raises:
        ConstraintError: `max_new_tokens` is less than what is forced.
        MissingExtraError: SGLang is not installed.
    """
    serving.checked_budget(config, sampling_params.get("max_new_tokens"))
    asked = {serving.REQUEST_KEY: True if config is None else config.to_dict()}
    custom = {**(sampling_params.get("custom_params") or {}), **asked}
    return {
        "sampling_params": {**sampling_params, "custom_params": custom},
        "custom_logit_processor": __getattr__("PerceptionLogitProcessor").to_str(),
    }


class _Logic:
    """`sglang.srt.sampling.custom_logit_processor.CustomLogitProcessor`: the engine hands over the requests."""

    def __init__(self) -> None:
        self._processors: serving.Processors | None = None

    def __call__(self, logits: Tensor, custom_param_list: list[dict[str, Any] | None] | None = None) -> Tensor:
        """Mask rows of logits (B, V) in place: those whose parameters ask for it."""
        asking = {row: one for row, one in enumerate(custom_param_list or ()) if one and "__req__" in one}
        if len({id(params) for params in asking.values()}) < len(asking):
            raise ConstraintError("SGLang shows its processors no draft tokens; serve without speculative decoding")
        answers = {row: self._answer(params) for row, params in asking.items()}
        serving.hold_answers({row: answer for row, answer in answers.items() if answer}, logits)
        return logits

    def _answer(self, params: dict[str, Any]) -> serving.Answer | None:
        request = params["__req__"]
        if self._processors is None:
            self._processors = serving.Processors(request.tokenizer)
        processor = self._processors.asked(params)
        if processor is None:
            return None
        if _TAIL not in params:  # the prompt is looked at once; what is kept goes with the request
            params[_TAIL] = serving.prompt_tail(processor, request.origin_input_ids)
        most = request.sampling_params.max_new_tokens
        return serving.Answer(processor, params[_TAIL], request.output_ids, most)


@cache
def __getattr__(name: str) -> Any:
    """The class is made when it is asked for by name, for its base is SGLang's."""
    if name != "PerceptionLogitProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sglang":
            raise
        raise MissingExtraError("sglang", "sglang", f"perceptok.decoding.engines.sglang.{name}") from error
    return type(name, (_Logic, CustomLogitProcessor), {"__module__": __name__, "__doc__": _Logic.__doc__})
