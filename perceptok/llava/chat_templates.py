"""Chat templates of foreign folders: rendered once with limits of time, memory and size, before they are used.

A template is a program. Jinja's sandbox keeps it from files and attributes, but not from endless loops and
allocations: it is rendered first for usual conversations by a process of its own, which the system ends at its limits.
This module is that process's script too, and imports nothing of perceptok or transformers.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["find_template_problem"]

_CPU_SECONDS = 4
_MAX_MEMORY = 2**30
_MAX_CHARACTERS = 100_000
"""Of the rendered conversations, which have some hundred characters themselves."""

_TIMEOUT = 120
"""Seconds on the clock after which a process that does not use the processor is ended."""

_QUESTION = "Which point is closest to the camera?"
_ANSWER = "(B)"


def _make_conversations() -> list[list[dict[str, Any]]]:
    """A question about an image; the same with a system text; and one that goes on after two answers."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
    system = {"role": "system", "content": [{"type": "text", "text": "A chat."}]}
    more = {"role": "user", "content": [{"type": "text", "text": _QUESTION}]}
    return [[question], [system, question], [question, answer, more, answer]]


@functools.lru_cache(maxsize=64)
def _find_problem(template: str, tokens: str) -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=json.dumps({"template": template, "tokens": json.loads(tokens)}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_TIMEOUT} s for a short question"
    if done.returncode < 0:
        return f"it takes more than {_CPU_SECONDS} s or {_MAX_MEMORY >> 20} MB for a short question"
    if done.returncode:
        return f"it cannot be rendered ({(done.stderr.strip().splitlines() or [''])[-1][:200]})"
    problem = json.loads(done.stdout)["problem"]
    return None if problem is None else str(problem)


def find_template_problem(template: str, special_tokens: Mapping[str, Any]) -> str | None:
    """Render a chat template for usual conversations in another process, with limits.

    Args:
        template: The template's text, in Jinja.
        special_tokens: What else it may use, such as `bos_token`, by name; other values than strings are left out.

    Returns:
        Why the template cannot be used: it takes too long, too much memory, writes too much, or fails for a question
        about an image. None where it can.
    """
    strings = {name: value for name, value in special_tokens.items() if isinstance(value, str)}
    return _find_problem(template, json.dumps(strings, sort_keys=True))


def _limit_resources() -> None:
    """Let the system end this process at its limits; Windows has none, there the timeout alone applies."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))


def _compile(template: str) -> Any:
    """Compile a template in the environment that transformers gives it."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, with which templates mark the assistant's text."""

        tags = {"generation"}  # noqa: RUF012 - as in the base class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller: Any) -> Any:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _render_conversations(template: str, tokens: Mapping[str, str]) -> str | None:
    """Render all conversations; the problem found, or None. Only the first, a question about an image, has to work."""
    from jinja2 import TemplateError

    try:
        compiled = _compile(template)
    except (TemplateError, RecursionError) as error:
        return f"it is not a valid template ({error})"
    for number, messages in enumerate(_make_conversations()):
        for add_generation_prompt in (True, False):
            size = 0
            values = {**tokens, "messages": messages, "add_generation_prompt": add_generation_prompt}
            try:
                for piece in compiled.generate(**values, tools=None, documents=None):
                    size += len(piece)
                    if size > _MAX_CHARACTERS:
                        return f"it writes more than {_MAX_CHARACTERS} characters for a short question"
            except MemoryError:
                return f"it takes more than {_MAX_MEMORY >> 20} MB for a short question"
            except Exception as error:  # noqa: BLE001 - a template can raise anything
                if number == 0:
                    return f"it fails for a question about an image ({type(error).__name__}: {error})"
    return None


if __name__ == "__main__":
    _limit_resources()
    request = json.load(sys.stdin)
    json.dump({"problem": _render_conversations(request["template"], request["tokens"])}, sys.stdout)
