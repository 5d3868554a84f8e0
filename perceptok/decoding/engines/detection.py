"""Servers with OpenAI's API: which engine answers at an address, and the constraint in the form that this engine reads.

Recognised: `perceptok llava serve`, vLLM, SGLang and llama.cpp. Each says who it is in the list of its models
(`owned_by` of `GET /v1/models`); where a gateway rewrites that list, by an endpoint that the others lack.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Literal, get_args

from perceptok.decoding.engines.gbnf import build_gbnf_grammar
from perceptok.decoding.engines.lark import build_lark_grammar
from perceptok.decoding.engines.serving import REQUEST_KEY
from perceptok.decoding.engines.structural_tag import OrderedAxes, build_structural_tag
from perceptok.decoding.grammar.automaton import GrammarConfig
from perceptok.errors import ConfigError, ConstraintError, EngineError, VocabularyError
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "EngineName",
    "ServedEngine",
    "build_request_constraint",
    "check_served_vocabulary",
    "detect_engine",
    "find_grammar_backend",
]

EngineName = Literal["perceptok", "vllm", "sglang", "llama.cpp"]
"""The engines that are recognised: `perceptok llava serve`, vLLM, SGLang, llama.cpp's server."""

_OWNERS: dict[str, EngineName] = {
    "perceptok": "perceptok",
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
}
"""`owned_by` of a model -> the engine."""

_VERSION_KEYS: dict[EngineName, tuple[str, str]] = {
    "perceptok": ("/health", "version"),
    "vllm": ("/version", "version"),
    "sglang": ("/server_info", "version"),
    "llama.cpp": ("/props", "build_info"),
}
"""Engine -> the endpoint that states its version, and the key. In this order an unknown server is asked."""

_TRIED_VERSIONS: dict[EngineName, str] = {"vllm": "0.32.0", "sglang": "0.5.23", "llama.cpp": "b11549"}
"""Engine -> the version whose constraints were tried (ENGINES.md). `perceptok llava serve` has perceptok's own."""

_MAX_BYTES = 16 * 2**20
"""Maximum size of an answer to a GET request; SGLang's `/server_info` has some kilobytes."""


@dataclass(frozen=True)
class ServedEngine:
    """An engine that serves models by OpenAI's API.

    Attributes:
        name: The engine.
        url: Address of the server, without `/v1` and without a slash at the end.
        models: The ids of its models, the first of which is served by default.
        version: The engine's own version as it states it; None where it states none.
        max_model_len: Maximum number of tokens of prompt and answer together, where the server states it.
        root: Folder or Hub id from which the first model was loaded, where the server states it.
        grammar_backend: The library that compiles grammars, where the server states it, as SGLang does, or
            `find_grammar_backend` found it.
    """

    name: EngineName
    url: str
    models: tuple[str, ...]
    version: str | None = None
    max_model_len: int | None = None
    root: str | None = None
    grammar_backend: str | None = None

    @property
    def api_url(self) -> str:
        """The base URL for OpenAI's clients: `url` and `/v1`."""
        return f"{self.url}/v1"

    @property
    def version_warning(self) -> str | None:
        """Why it is not known what the engine enforces: another version than the one that was tried, or none stated.

        None for the version that was tried, and for `perceptok llava serve`.
        """
        tried = _TRIED_VERSIONS.get(self.name)
        if tried is None or _name_release(self.name, self.version) == tried:
            return None
        state = f"states the version {self.version}" if self.version else "does not state its version"
        return (
            f"{self.name} at {self.url} {state}; constraints were tried with {tried}. "
            f"`perceptok decoding check --server {self.url}` shows what it enforces"
        )


def detect_engine(
    url: str, *, api_key: str | None = None, engine: EngineName | None = None, timeout: float = 10.0
) -> ServedEngine:
    """Find out which engine serves at an address, by at most five GET requests.

    Args:
        url: Address of the server, with or without `/v1`, such as "http://localhost:8000".
        api_key: Sent as a bearer token.
        engine: Which engine it is, where that is known: it is not found out then.
        timeout: Seconds that each request may take.

    Raises:
        ConfigError: The address is not one of http or https, or `engine` is not one of those that are recognised.
        EngineError: No server answers, it refuses the key, it does not speak OpenAI's API, it serves no model, or it
            is none of the engines that are recognised.
    """
    url = _normalize_url(url)
    if engine is not None and engine not in _VERSION_KEYS:
        raise ConfigError(f"engine is one of {', '.join(map(repr, get_args(EngineName)))}; got {engine!r}")
    listing = _get_json(f"{url}/v1/models", api_key, timeout)
    models = _read_models(listing, url)
    name = engine or _OWNERS.get(str(models[0].get("owned_by", "")).lower())
    version: str | None = None
    information: Mapping[str, Any] = {}
    for candidate in [name] if name else list(_VERSION_KEYS):
        endpoint, key = _VERSION_KEYS[candidate]
        reply = _try_get(f"{url}{endpoint}", api_key, timeout)
        if isinstance(reply.get(key), str | int | float) and (name or candidate != "perceptok"):
            name, version, information = candidate, str(reply[key]), reply
            break
    if name is None:
        raise EngineError(
            f"the server at {url} (owned_by={models[0].get('owned_by')!r}) is not recognised as one of "
            f"{', '.join(get_args(EngineName))}; state which engine it is, where that is asked for"
        )
    ids = tuple(str(model["id"]) for model in models)
    root, backend = models[0].get("root"), information.get("grammar_backend")
    return ServedEngine(
        name,
        url,
        ids,
        version,
        _find_max_model_len(models[0]),
        root if isinstance(root, str) else None,
        backend if isinstance(backend, str) else None,
    )


def check_served_vocabulary(
    engine: ServedEngine,
    vocab: PerceptionVocabulary,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout: float = 10.0,
) -> bool:
    """Check that the served tokenizer gives the perception tokens the ids of a vocabulary, where it can be asked.

    Grammars are written for ids: with those of another tokenizer an engine would force arbitrary tokens.

    Args:
        engine: The server.
        vocab: The vocabulary from which grammars are made.
        model: Id of the served model; by default the first.
        api_key: Sent as a bearer token.
        timeout: Seconds that each request may take.

    Returns:
        True where the ids agree, False where the server has no endpoint that tokenizes.

    Raises:
        VocabularyError: The served tokenizer gives other ids, or splits the tokens because it was never extended.
    """
    tokens = [token_set.tokens[place] for token_set in (DEPTH, PIXEL) if vocab.has(token_set) for place in (0, -1)]
    for token in tokens:
        content = {"content": token} if engine.name == "llama.cpp" else {"prompt": token}
        body = {**content, "model": model or engine.models[0], "add_special_tokens": False, "add_special": False}
        try:
            reply = _get_json(f"{engine.url}/tokenize", api_key, timeout, body)
        except EngineError:
            return False
        ids = reply.get("tokens") if isinstance(reply, Mapping) else None
        if not isinstance(ids, list):
            return False
        if ids != [vocab.tokens[token]]:
            state = f"the id {ids[0]}" if len(ids) == 1 else f"{len(ids)} ids, as one that was never extended"
            raise VocabularyError(
                f"the tokenizer served at {engine.url} gives {token} {state}; that of the grammar gives it "
                f"{vocab.tokens[token]}: serve the extended model, and pass its own tokenizer"
            )
    return True


def find_grammar_backend(
    engine: ServedEngine,
    vocab: PerceptionVocabulary,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout: float = 60.0,
) -> str | None:
    """Find out which library compiles grammars on a server of vLLM or SGLang, "xgrammar" or "llguidance".

    SGLang states it. vLLM does not, and has one for all requests from the first constrained one on: that of
    `--structured-outputs-config.backend`, or xgrammar if it can read that first request, else llguidance. So one or two
    requests for a single token are sent, first with a structural tag and, if that is refused, with a Lark grammar.

    Args:
        engine: The server.
        vocab: Perception tokens of the served model.
        model: Id of the served model; by default the first.
        api_key: Sent as a bearer token.
        timeout: Seconds that each request may take.

    Returns:
        The name; None for other engines, and where the server refuses both or is too busy to say.
    """
    if engine.grammar_backend is not None or engine.name != "vllm":
        return engine.grammar_backend
    token_id = int(vocab.all_ids[0])
    tag = {"type": "structural_tag", "format": {"type": "grammar", "grammar": f"root::=Token({token_id})"}}
    constraints = {
        "xgrammar": {"structural_tag": json.dumps(tag)},
        "llguidance": {"grammar": f"%llguidance {{}}\nstart: <[{token_id}]>"},
    }
    body = {"model": model or engine.models[0], "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for backend, constraint in constraints.items():
        try:
            _get_json(f"{engine.api_url}/chat/completions", api_key, timeout, body | {"structured_outputs": constraint})
        except EngineError as error:
            if getattr(error.__cause__, "code", None) not in (400, 422, 500):
                return None  # busy, or not reached: it says nothing about the constraint
        else:
            return backend
    return None


def build_request_constraint(
    engine: EngineName,
    vocab: PerceptionVocabulary | None,
    config: GrammarConfig | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    ordered_axes: OrderedAxes = "coarse",
    grammar_backend: str | None = None,
) -> dict[str, Any]:
    """The fields that make one engine constrain a request: `extra_body` of OpenAI's clients.

    - vLLM and SGLang: a structural tag for xgrammar, which enforces x2 >= x1 and y2 > y1 - 8, or as much of the order
      as `ordered_axes` says. Where the server compiles grammars by llguidance: a Lark grammar, which enforces x2 >= x1
      and y2 >= y1.
    - llama.cpp: a GBNF grammar, which does not order coordinates.
    - `perceptok llava serve`: the configuration itself; everything is enforced, the token budget included.

    Args:
        engine: The engine, as `detect_engine` names it.
        vocab: Perception tokens and their ids in the served model's tokenizer; None for "perceptok" alone.
        config: The grammar; by default depth and boxes where the vocabulary has them.
        tokenizer: The served model's own; not needed for "perceptok".
        eos_token_id: Ids that end a sequence, instead of the tokenizer's.
        ordered_axes: How much of the order of coordinates a structural tag enforces.
        grammar_backend: The library that compiles grammars on the server, "xgrammar" or "llguidance", as
            `find_grammar_backend` finds it; by default xgrammar.

    Raises:
        ConstraintError: Another engine or backend, or vocabulary, tokenizer and grammar do not fit together. OpenAI's
            own API, lmdeploy and `transformers serve` have no field for such a grammar; OpenVINO GenAI's xgrammar has
            no rules for tokens and reads `build_gbnf_grammar(..., spelled=True)` alone.
    """
    if engine == "perceptok":
        return {REQUEST_KEY: True if config is None else config.to_dict()}
    if engine not in _VERSION_KEYS:
        raise ConstraintError(
            f"{engine!r} is not one of {', '.join(map(repr, get_args(EngineName)))}, whose requests can carry a "
            "constraint"
            + (
                "; OpenVINO's xgrammar has no rules for tokens: give it build_gbnf_grammar(..., spelled=True)"
                if str(engine).lower().startswith("openvino")
                else ""
            )
        )
    if vocab is None:
        raise ConstraintError(f"a constraint for {engine} is written for token ids; pass the served model's vocabulary")
    if engine == "llama.cpp":
        return {"grammar": build_gbnf_grammar(vocab, config, tokenizer=tokenizer, eos_token_id=eos_token_id)}
    if grammar_backend == "llguidance":
        grammar = build_lark_grammar(vocab, config, tokenizer=tokenizer, eos_token_id=eos_token_id)
        return {"ebnf": grammar} if engine == "sglang" else {"structured_outputs": {"grammar": grammar}}
    if grammar_backend not in (None, "xgrammar"):
        raise ConstraintError(
            f"the server compiles grammars by {grammar_backend!r}, for which there is no constraint; start it with the "
            "grammar backend xgrammar or llguidance (which vLLM names guidance)"
        )
    tag = build_structural_tag(vocab, config, tokenizer=tokenizer, eos_token_id=eos_token_id, ordered_axes=ordered_axes)
    return (
        {"response_format": tag} if engine == "sglang" else {"structured_outputs": {"structural_tag": json.dumps(tag)}}
    )


def _name_release(name: EngineName, version: str | None) -> str | None:
    """The release of a version: "0.32.0+cpu" of vLLM is 0.32.0, "b11549-1a2b3c4" of llama.cpp b11549."""
    if version is None:
        return None
    return version.partition("-" if name == "llama.cpp" else "+")[0].strip()


def _normalize_url(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a valid address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{url!r} is not the address of a server; expected one such as http://localhost:8000")
    if parts.query or parts.fragment or parts.username:
        raise ConfigError("the address of a server has neither a query nor a user; pass a key as api_key")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _get_json(url: str, api_key: str | None, timeout: float, body: Mapping[str, Any] | None = None) -> Any:
    """The JSON value that an address gives, for a POST request where there is a body; raises EngineError."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 -- http and https alone
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            content = response.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                raise EngineError(f"{url}: the server asks for a valid API key (HTTP {error.code})") from error
            raise EngineError(
                f"{url}: HTTP {error.code}; expected a server with OpenAI's API, or one that has started fully"
            ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise EngineError(f"no server answers at {url}: {reason}; start it, or correct the address") from error
    except HTTPException as error:
        raise EngineError(f"{url}: the reply is not valid HTTP ({error!r}); correct the address") from error
    if len(content) > _MAX_BYTES:
        raise EngineError(f"{url}: the reply has more than {_MAX_BYTES} bytes; expected a list of models")
    try:
        return json.loads(content)
    except ValueError as error:
        raise EngineError(f"{url}: the reply is not valid JSON; expected a server with OpenAI's API") from error


def _try_get(url: str, api_key: str | None, timeout: float) -> Mapping[str, Any]:
    """The JSON object at an address; empty where the server has none there."""
    try:
        value = _get_json(url, api_key, timeout)
    except EngineError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _read_models(listing: Any, url: str) -> list[Mapping[str, Any]]:
    models = listing.get("data") if isinstance(listing, Mapping) else None
    if not isinstance(models, list) or not all(isinstance(model, Mapping) and "id" in model for model in models):
        raise EngineError(f"{url}/v1/models is not a list of models in OpenAI's form; correct the address")
    if not models:
        raise EngineError(f"the server at {url} serves no model; wait until it has loaded one")
    return models


def _find_max_model_len(model: Mapping[str, Any]) -> int | None:
    """VLLM and SGLang state it beside the id, llama.cpp within `meta`."""
    meta = model.get("meta")
    value = model.get("max_model_len", meta.get("n_ctx") if isinstance(meta, Mapping) else None)
    return value if isinstance(value, int) else None
