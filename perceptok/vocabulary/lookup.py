"""Perception tokens of a tokenizer by name, code and id, and the manifest that is saved with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, overload

import torch
from torch import Tensor

from perceptok.errors import OutputError, VocabularyError, quote_error, translate_errors
from perceptok.files import atomic_write, decode_text, parse_json, read_input
from perceptok.tokens import DEPTH, PIXEL, TokenSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "MANIFEST",
    "Manifest",
    "PerceptionVocabulary",
    "Tokenizer",
    "check_manifest",
    "load_tokenizer",
    "read_manifest",
    "restore_text",
    "sanitize_text",
    "tokenizer_fingerprint",
    "write_manifest",
]


MANIFEST = "perception_tokens.json"
"""Name of the file in a tokenizer's folder."""

_FORMAT = 1


class Tokenizer(Protocol):
    """The methods of a tokenizer that are used here; every fast tokenizer of transformers has them."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Manifest:
    """The saved description of a vocabulary.

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
        """The text of the manifest file, one token per line."""
        values = {
            "format": _FORMAT,
            "token_sets": [_list_fields(token_set) for token_set in self.token_sets],
            "size": self.size,
            "base_tokenizer_sha256": self.base,
            "codec_fingerprint": self.codec,
            "tokens": self.tokens,
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Manifest:
        """Parse the text of a manifest file; raises VocabularyError, which names the file, where it is not valid."""
        try:
            values: dict[str, Any] = parse_json(text, name, VocabularyError)
            if values["format"] != _FORMAT:
                raise VocabularyError(
                    f"{name} has format {values['format']!r}, this release reads {_FORMAT}; upgrade perceptok"
                )
            sets = tuple(TokenSet(**value) for value in values["token_sets"])
            tokens = {token: values["tokens"][token] for token_set in sets for token in token_set.tokens}
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
            raise VocabularyError(f"{name} is not a manifest of perception tokens ({error}); write it again") from error


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write a manifest into a folder, which is created if missing; raises OutputError where that fails."""
    path = Path(folder) / MANIFEST
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {path.parent}: {error.strerror or error}") from error
    with atomic_write(path, force=True) as file:
        file.write(manifest.to_json().encode())
    return path


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read a folder's manifest; raises VocabularyError if it is missing or damaged."""
    path = Path(folder) / MANIFEST
    try:
        text = decode_text(read_input(path))
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"cannot read {path} ({quote_error(error)}); save it with PerceptionVocabulary.save_pretrained, or look "
            "the tokens up without a manifest: PerceptionVocabulary.from_tokenizer"
        ) from error
    return Manifest.from_json(text, str(path))


def load_tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder, without the network; raises VocabularyError if there is none."""
    from transformers import AutoTokenizer

    with translate_errors(VocabularyError, f"no tokenizer loads from {folder}", "save it there, or pass tokenizer="):
        return cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        )


def check_manifest(manifest: Manifest, tokenizer: Tokenizer, codec_fingerprint: str | None = None) -> None:
    """Check a tokenizer, and a codec where its fingerprint is given, against a manifest.

    Raises:
        VocabularyError: They differ; the message names the first difference.
    """
    known = tokenizer.get_vocab()
    for token, index in manifest.tokens.items():
        found = known.get(token)
        if found != index:
            actual = "lacks it" if found is None else f"gives it {found}"
            raise VocabularyError(
                f"the manifest is of another tokenizer: it gives {token} the id {index}, this tokenizer {actual}; load "
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
            f"the DEPTH tokens stand for codes of the codec {manifest.codec}, this codec is {codec_fingerprint}: codes "
            "of two codecs are not interchangeable; load the codec that the model was trained with"
        )


def tokenizer_fingerprint(known: Mapping[str, int], token_sets: Sequence[TokenSet], size: int) -> str:
    """SHA-256 of the tokens with ids below `size` that are in no set, in order of id."""
    ours = {token for token_set in token_sets for token in token_set.tokens}
    base = sorted((index, token) for token, index in known.items() if index < size and token not in ours)
    return hashlib.sha256(json.dumps(base).encode()).hexdigest()


def _list_fields(token_set: TokenSet) -> dict[str, object]:
    """The fields of a token set, without cached values."""
    return {"name": token_set.name, "size": token_set.size, "delimited": token_set.delimited}


KNOWN_SETS = (DEPTH, PIXEL)


class PerceptionVocabulary:
    """Token sets <-> ids of a tokenizer, looked up by name and never assumed.

    Attributes:
        token_sets: Its sets, in vocabulary order.
        size: One more than the largest id of the tokenizer, and at least its length; logits may be wider (padding).
        base_fingerprint: A hash of the tokenizer's other tokens and their ids; None where it was made without one.
        codec_fingerprint: The fingerprint of the depth codec whose codes the DEPTH tokens stand for, or None.
        separators: Id -> text of the tokenizer's tokens that may separate coordinates: of spaces, commas and brackets
            alone, or ending in "(", or beginning with ")"; other text in them is written "x"; empty without one.
    """

    def __init__(
        self,
        token_sets: Sequence[TokenSet],
        ids: Mapping[str, int],
        size: int,
        *,
        base_fingerprint: str | None = None,
        codec_fingerprint: str | None = None,
    ) -> None:
        self.token_sets = tuple(token_sets)
        self.separators = _find_separators(ids)
        self.size = size
        self.base_fingerprint = base_fingerprint
        self.codec_fingerprint = codec_fingerprint
        self._ids = {token: ids[token] for token_set in self.token_sets for token in token_set.tokens}
        self._names = {index: token for token, index in self._ids.items()}
        self._set_of = torch.full((size,), -1, dtype=torch.int64)
        self._code_of = torch.full((size,), -1, dtype=torch.int64)
        self._perception = torch.zeros(size, dtype=torch.bool)
        self._perception[list(self._ids.values())] = True
        for number, token_set in enumerate(self.token_sets):
            ids_of_codes = self.ids(token_set)
            self._set_of[ids_of_codes] = number
            self._code_of[ids_of_codes] = torch.arange(token_set.size)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, token_sets: Sequence[TokenSet] | None = None) -> Self:
        """Look the tokens up in a tokenizer.

        Args:
            tokenizer: A tokenizer with the tokens, as `extend_vocabulary` adds them.
            token_sets: The sets to look up; without it, those of DEPTH and PIXEL that the tokenizer has.

        Raises:
            VocabularyError: A set is missing or incomplete; the message names the first missing token.
        """
        known = tokenizer.get_vocab()
        sets = tuple(token_sets) if token_sets is not None else _find_sets(known)
        for token_set in sets:
            missing = [token for token in token_set.tokens if token not in known]
            if missing:
                raise VocabularyError(
                    f"the tokenizer lacks {len(missing)} of the {len(token_set.tokens)} {token_set.name} tokens, "
                    f"{missing[0]} first; add them with extend_vocabulary"
                )
        if not sets:
            raise VocabularyError("the tokenizer has no perception tokens; add them with extend_vocabulary")
        size = max(len(tokenizer), max(known.values()) + 1)
        return cls(sets, known, size, base_fingerprint=tokenizer_fingerprint(known, sets, size))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        *,
        codec_fingerprint: str | None = None,
    ) -> Self:
        """Read the manifest of a folder and check the tokenizer against it.

        Args:
            folder: Where `save_pretrained` wrote; no network.
            tokenizer: The tokenizer to check; the one saved in the folder where None.
            codec_fingerprint: The fingerprint of the depth codec in use, which is checked as well.

        Raises:
            VocabularyError: No manifest, a damaged one, or one of another tokenizer or codec; the message names the
                first difference.
        """
        manifest = read_manifest(folder)
        tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
        check_manifest(manifest, tokenizer, codec_fingerprint)
        vocab = cls.from_tokenizer(tokenizer, manifest.token_sets)
        vocab.codec_fingerprint = manifest.codec
        return vocab

    def save_pretrained(self, folder: str | os.PathLike[str], *, codec_fingerprint: str | None = None) -> None:
        """Write the manifest, `perception_tokens.json`, beside the tokenizer; an older one is replaced.

        Args:
            folder: Where the tokenizer is saved; created if missing.
            codec_fingerprint: `DepthCodec.fingerprint` of the codec whose codes the DEPTH tokens stand for.

        Raises:
            VocabularyError: This vocabulary was not made from a tokenizer.
            OutputError: The file cannot be written.
        """
        if codec_fingerprint is not None:
            self.codec_fingerprint = codec_fingerprint
        write_manifest(folder, self._manifest())

    def __repr__(self) -> str:
        """The sets with their lowest and highest ids."""
        spans = []
        for token_set in self.token_sets:
            ids = [self._ids[token] for token in token_set.tokens]
            spans.append(f"{token_set.name} {min(ids)}..{max(ids)}")
        return f"PerceptionVocabulary({', '.join(spans)} of {self.size})"

    def has(self, token_set: TokenSet) -> bool:
        """Whether the set is part of this vocabulary."""
        return token_set in self.token_sets

    def token_id(self, token_set: TokenSet, code: int) -> int:
        """The id of a code's token; raises VocabularyError for a set it lacks, ValueError for a code out of range."""
        return self._id(token_set, token_set.token(code))

    def start_id(self, token_set: TokenSet) -> int:
        """The id of the token that opens a block."""
        return self._id(token_set, token_set.start)

    def end_id(self, token_set: TokenSet) -> int:
        """The id of the token that closes a block."""
        return self._id(token_set, token_set.end)

    def ids(self, token_set: TokenSet) -> Tensor:
        """The ids of a set's codes, (size,) int64: entry k is code k's."""
        return torch.tensor([self.token_id(token_set, code) for code in range(token_set.size)])

    @property
    def all_ids(self) -> Tensor:
        """The ids of every perception token, markers included, in vocabulary order: (N,) int64."""
        return torch.tensor(list(self._ids.values()))

    @property
    def tokens(self) -> dict[str, int]:
        """Token -> id of every perception token, in vocabulary order."""
        return dict(self._ids)

    def token(self, token_id: int) -> str:
        """The perception token of an id, a code's or a marker's; raises VocabularyError for any other id."""
        if token_id not in self._names:
            raise VocabularyError(f"token id {token_id} is not in {self}")
        return self._names[token_id]

    def code(self, token_id: int) -> tuple[TokenSet, int]:
        """The set and code of a code token's id.

        Raises:
            VocabularyError: The id is a marker's, or not that of a perception token.
        """
        number = int(self._set_of[token_id]) if 0 <= token_id < self.size else -1
        if number < 0:
            raise VocabularyError(
                f"token id {token_id} is not a code of {', '.join(token_set.name for token_set in self.token_sets)}"
            )
        return self.token_sets[number], int(self._code_of[token_id])

    def codes(self, token_ids: Tensor, token_set: TokenSet) -> Tensor:
        """Ids of any shape -> codes of a set, int64 of the same shape and device; -1 for all other ids."""
        self._require(token_set)
        table = torch.where(self._set_of == self.token_sets.index(token_set), self._code_of, -1)
        return _look_up(table, token_ids, -1)

    @overload
    def is_perception(self, token_ids: int) -> bool: ...
    @overload
    def is_perception(self, token_ids: Tensor) -> Tensor: ...
    def is_perception(self, token_ids: int | Tensor) -> bool | Tensor:
        """Whether ids are perception tokens, markers included; bool of the same shape."""
        if isinstance(token_ids, Tensor):
            return _look_up(self._perception, token_ids, 0)
        return 0 <= token_ids < self.size and bool(self._perception[token_ids])

    def _manifest(self) -> Manifest:
        if self.base_fingerprint is None:
            raise VocabularyError(
                "this vocabulary was not made from a tokenizer, so that no tokenizer could be checked against its "
                "manifest; make it with PerceptionVocabulary.from_tokenizer or extend_vocabulary"
            )
        return Manifest(self.token_sets, self.tokens, self.size, self.base_fingerprint, self.codec_fingerprint)

    def _id(self, token_set: TokenSet, token: str) -> int:
        self._require(token_set)
        return self._ids[token]

    def _require(self, token_set: TokenSet) -> None:
        if token_set not in self.token_sets:
            raise VocabularyError(
                f"this vocabulary has no {token_set.name} tokens, only "
                f"{', '.join(token_set.name for token_set in self.token_sets)}; add them with extend_vocabulary"
            )


_SPACES = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t", "\u010d": "\r"})
"""SentencePiece's and byte-level BPE's forms of white space."""
_BYTES = {"<0x0A>": "\n", "<0x09>": "\t", "<0x20>": " ", "<0x28>": "(", "<0x29>": ")", "<0x2C>": ","}
_SEPARATOR = re.compile(r"[\s(),]+", re.ASCII)
_OPENING = re.compile(r"\(\s*\Z", re.ASCII)
_CLOSING = re.compile(r"\s*\)", re.ASCII)


def _find_separators(known: Mapping[str, int]) -> dict[int, str]:
    """The tokens that may separate coordinates, by id."""
    separators: dict[int, str] = {}
    for token, token_id in known.items():
        text = _BYTES.get(token) or token.translate(_SPACES)
        opening, closing = _OPENING.search(text), _CLOSING.match(text)
        if _SEPARATOR.fullmatch(text):
            separators[token_id] = text
        elif opening or closing:
            separators[token_id] = f"{closing[0] if closing else ''}x{opening[0] if opening else ''}"
    return separators


def _find_sets(known: Mapping[str, int]) -> tuple[TokenSet, ...]:
    return tuple(token_set for token_set in KNOWN_SETS if any(token in known for token in token_set.tokens))


def _look_up(table: Tensor, token_ids: Tensor, otherwise: int) -> Tensor:
    table = table.to(token_ids.device)
    inside = (token_ids >= 0) & (token_ids < len(table))
    return torch.where(inside, table[token_ids.clamp(0, len(table) - 1)], otherwise).to(table.dtype)


def sanitize_text(text: str, token_sets: PerceptionVocabulary | Sequence[TokenSet] = (DEPTH, PIXEL)) -> str:
    r"""Escape all perception tokens in a user's text: `<DEPTH_5>` becomes `<\DEPTH_5>`.

    Tokenizers match added tokens anywhere in a text, so that a user could write perception tokens. All other text is
    unchanged; text with such backslashes gets another one, so that `restore_text` is the exact inverse for all texts.

    Args:
        text: A user's text, not the model's output, whose tokens are intended.
        token_sets: The sets to escape, or a vocabulary, for its sets.
    """
    return _pattern(_sets(token_sets)).sub(r"<\\\1\2>", text)


def restore_text(text: str, token_sets: PerceptionVocabulary | Sequence[TokenSet] = (DEPTH, PIXEL)) -> str:
    """The inverse of `sanitize_text`, with the same sets."""
    return _pattern(_sets(token_sets)).sub(lambda found: f"<{found[1][1:]}{found[2]}>", text)


def _sets(token_sets: PerceptionVocabulary | Sequence[TokenSet]) -> tuple[TokenSet, ...]:
    return token_sets.token_sets if isinstance(token_sets, PerceptionVocabulary) else tuple(token_sets)


@lru_cache(maxsize=16)
def _pattern(token_sets: tuple[TokenSet, ...]) -> re.Pattern[str]:
    names = (re.escape(token[1:-1]) for token_set in token_sets for token in token_set.tokens)
    return re.compile(rf"<(\\*)({'|'.join(names)})>")
