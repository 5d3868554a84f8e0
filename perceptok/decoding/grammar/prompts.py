"""What a prompt leaves open at its end, and what it leaves broken."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from perceptok.decoding.grammar.automaton import Grammar, State, Symbol
from perceptok.errors import ConstraintError

__all__ = ["end_of_prompt"]

_OPENING = (Symbol.OPEN, Symbol.CLOSE_OPEN)
_CLOSING = (Symbol.CLOSE, Symbol.CLOSE_OPEN)
_ADVICE = "repair the end of the prompt, or close there what it leaves open"


def end_of_prompt(grammar: Grammar, symbols: Sequence[int]) -> State:
    """The state in which the answer to a prompt begins. Only what is open at its end counts: history is free.

    Args:
        grammar: The grammar of the answer.
        symbols: Those of the prompt; -1 stands for text too.

    Raises:
        ConstraintError: The prompt ends inside a block or box with tokens that cannot stand there.
    """
    kind, begun = _open_at_end(grammar, symbols)
    state = State(grammar.row("text"))
    for place in range(begun, len(symbols)):
        after = grammar.advance(state, symbols[place])
        if after is None:
            raise ConstraintError(
                f"the prompt ends inside a {kind}, begun at its token {begun} and broken at {place}, where "
                f"{_shown(symbols[place])} cannot stand; {_ADVICE}"
            )
        state = after
    if grammar.distance[state.control]:
        return state
    if "first open" in grammar.names and symbols and symbols[-1] in _OPENING:
        return State(grammar.row("first open"))
    return grammar.initial


def _open_at_end(grammar: Grammar, symbols: Sequence[int]) -> tuple[str, int]:
    """What the prompt leaves open and where that begins; the prompt's own end where nothing is."""
    end = len(symbols)
    if grammar.config.depth:
        start = _last(symbols, (Symbol.DEPTH_START,))
        if start > _last(symbols, (Symbol.DEPTH_END,)):
            return "depth block", start
        if end and symbols[-1] == Symbol.DEPTH_CODE:
            raise ConstraintError(f"the prompt ends in a depth code that stands in no block; {_ADVICE}")
    if grammar.config.boxes is None or _last_pixel(symbols) < 0:
        return "text", end
    last = _last_pixel(symbols)
    if grammar.config.boxes == "compact":
        run = next((back for back in range(last + 1) if symbols[last - back] < Symbol.PIXEL), last + 1)
        return "box", end - run % 4 if last == end - 1 else end
    while last >= 2 and symbols[last - 1] == Symbol.COMMA and symbols[last - 2] >= Symbol.PIXEL:
        last -= 2
    if last and symbols[last - 1] in _OPENING:
        closed = any(symbol in _CLOSING for symbol in symbols[last:])
        return "box", end if closed else last - 1
    if symbols[-1] >= Symbol.PIXEL:
        raise ConstraintError(f"the prompt ends in a coordinate that stands in no box; {_ADVICE}")
    return "text", end


def _last(symbols: Sequence[int], wanted: Collection[int]) -> int:
    return next((place for place in reversed(range(len(symbols))) if symbols[place] in wanted), -1)


def _last_pixel(symbols: Sequence[int]) -> int:
    return next((place for place in reversed(range(len(symbols))) if symbols[place] >= Symbol.PIXEL), -1)


def _shown(symbol: int) -> str:
    return "ordinary text" if symbol < 0 else f"a token of the kind {Symbol(min(symbol, Symbol.PIXEL)).name}"
