"""The manifest of a vocabulary: which token has which id in which tokenizer, as JSON beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from perceptok.errors import OutputError, VocabularyError
from perceptok.files import atomic_write, parse_json
from perceptok.tokens import TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "MANIFEST",
    "Manifest",
    "Tokenizer",
    "checked",
    "load_tokenizer",
    "read_manifest",
    "tokenizer_fingerprint",
    "write_manifest",
]

MANIFEST = "perception_tokens.json"
"""Name of the file in a tokenizer's folder."""

_FORMAT = 1


class Tokenizer(Protocol):
    """What is asked of a tokenizer here: every fast one of transformers qualifies."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Manifest:
    """What is on record about a vocabulary.

    Attributes:
        token_sets: In vocabulary order.
        tokens: Token -> id, in vocabulary order.
        size: One more than the largest id of the tokenizer when the manifest was written.
        base: SHA-256 of the tokenizer's other tokens and ids below `size`.
        codec: Fingerprint of the depth codec, or None.
    """

    token_sets: tuple[TokenSet, ...]
    tokens: dict[str, int]
    size: int
    base: str
    codec: str | None

    def to_json(self) -> str:
        """As it is written, one token a line."""
        values = {
            "format": _FORMAT,
            "token_sets": [_fields(one) for one in self.token_sets],
            "size": self.size,
            "base_tokenizer_sha256": self.base,
            "codec_fingerprint": self.codec,
            "tokens": self.tokens,
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Manifest:
        """The inverse of `to_json`; raises VocabularyError, which names the file, for anything else."""
        try:
            values: dict[str, Any] = parse_json(text, name, VocabularyError)
            if values["format"] != _FORMAT:
                raise VocabularyError(
                    f"{name} has format {values['format']!r}, this release reads {_FORMAT}; upgrade perceptok"
                )
            sets = tuple(TokenSet(**one) for one in values["token_sets"])
            tokens = {token: values["tokens"][token] for one in sets for token in one.tokens}
            size, codec = values["size"], values["codec_fingerprint"]
            if tokens.keys() != values["tokens"].keys():
                raise ValueError("its tokens are not those of its token sets")
            if not all(type(index) is int and 0 <= index < size for index in tokens.values()):
                raise ValueError(f"its ids are not integers below {size}")
            if not (codec is None or isinstance(codec, str)):
                raise ValueError(f"its codec_fingerprint is {codec!r}")
            return cls(sets, tokens, size, str(values["base_tokenizer_sha256"]), codec)
        except VocabularyError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VocabularyError(f"{name} is no manifest of perception tokens ({error}); write it anew") from error


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write a manifest into a folder, which is made where missing; raises OutputError where that fails."""
    path = Path(folder) / MANIFEST
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    with atomic_write(path, force=True) as file:
        file.write(manifest.to_json().encode())
    return path


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read a folder's manifest; raises VocabularyError if it is missing or damaged."""
    path = Path(folder) / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"cannot read {path} ({error}); save it with PerceptionVocabulary.save_pretrained, or look the tokens up "
            "without a manifest: PerceptionVocabulary.from_tokenizer"
        ) from error
    return Manifest.from_json(text, str(path))


def load_tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder, without the network; raises VocabularyError if there is none."""
    from transformers import AutoTokenizer

    try:
        return cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        )
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"no tokenizer loads from {folder} ({str(error).splitlines()[0]}); save it there, or pass tokenizer="
        ) from error


def checked(manifest: Manifest, tokenizer: Tokenizer, codec_fingerprint: str | None = None) -> None:
    """Hold a tokenizer, and a codec where one is given, to a manifest.

    Raises:
        VocabularyError: They differ; the message names the first token or fingerprint that does.
    """
    known = tokenizer.get_vocab()
    for token, index in manifest.tokens.items():
        found = known.get(token)
        if found != index:
            here = "lacks it" if found is None else f"gives it {found}"
            raise VocabularyError(
                f"the manifest is of another tokenizer: it gives {token} the id {index}, this tokenizer {here}; load "
                "the tokenizer that was saved with it, or bring data and weights over with remap_ids and remap_rows"
            )
    base = tokenizer_fingerprint(known, manifest.token_sets, manifest.size)
    if base != manifest.base:
        raise VocabularyError(
            "the manifest is of another tokenizer: the perception tokens agree, but the other tokens below id "
            f"{manifest.size} have the hash {base[:12]}, not {manifest.base[:12]}; load the tokenizer that was saved "
            "with it"
        )
    if codec_fingerprint is not None and manifest.codec is not None and codec_fingerprint != manifest.codec:
        raise VocabularyError(
            f"the DEPTH tokens mean codes of the codec {manifest.codec}, this codec is {codec_fingerprint}: codes of "
            "two codecs do not mix; load the codec that the model was trained with"
        )


def tokenizer_fingerprint(known: Mapping[str, int], token_sets: Sequence[TokenSet], size: int) -> str:
    """SHA-256 of the tokens with ids below `size` that are in no set, in order of id."""
    ours = {token for one in token_sets for token in one.tokens}
    base = sorted((index, token) for token, index in known.items() if index < size and token not in ours)
    return hashlib.sha256(json.dumps(base).encode()).hexdigest()


def _fields(token_set: TokenSet) -> dict[str, object]:
    """The fields of a token set, without what it has cached."""
    return {"name": token_set.name, "size": token_set.size, "delimited": token_set.delimited}
