"""The manifest of a tokenizer: content, checks, damaged files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import OutputError, VocabularyError
from perceptok.vocabulary import MANIFEST, consecutive_vocabulary, extend_vocabulary


@pytest.fixture
def saved(bare: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    vocab = extend_vocabulary(bare)
    bare.save_pretrained(tmp_path)
    vocab.save_pretrained(tmp_path, codec_fingerprint="c0dec")
    return tmp_path


def test_a_manifest_round_trips(saved: Path, bare: PreTrainedTokenizerFast) -> None:
    for vocab in (
        pt.PerceptionVocabulary.from_pretrained(saved),
        pt.PerceptionVocabulary.from_pretrained(saved, bare, codec_fingerprint="c0dec"),
    ):
        assert vocab.tokens == pt.PerceptionVocabulary.from_tokenizer(bare).tokens
        assert vocab.token_sets == (pt.tokens.DEPTH, pt.tokens.PIXEL)
        assert vocab.codec_fingerprint == "c0dec"
    vocab.save_pretrained(saved)
    assert pt.PerceptionVocabulary.from_pretrained(saved).codec_fingerprint == "c0dec"


def test_the_content_of_the_file(saved: Path) -> None:
    written = json.loads((saved / MANIFEST).read_text())
    assert written["tokens"]["<DEPTH_START>"] == 300
    assert list(written["tokens"]) == [*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens]
    assert written["token_sets"][0] == {"name": "DEPTH", "size": 128, "delimited": True}
    assert len(written["base_tokenizer_sha256"]) == 64
    assert written["codec_fingerprint"] == "c0dec"


def test_later_tokens_are_ignored(saved: Path, bare: PreTrainedTokenizerFast) -> None:
    bare.add_tokens(["<ref>"])
    assert pt.PerceptionVocabulary.from_pretrained(saved, bare).size == 767


def test_another_tokenizer_is_refused(saved: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(VocabularyError, match="gives <DEPTH_START> the id 300, this tokenizer gives it 10"):
        pt.PerceptionVocabulary.from_pretrained(saved, tokenizer)


def test_the_first_difference_is_named(saved: Path, bare: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    written = json.loads((saved / MANIFEST).read_text())
    tokens = written["tokens"]
    tokens["<PIXEL_3>"], tokens["<PIXEL_4>"] = tokens["<PIXEL_4>"], tokens["<PIXEL_3>"]
    (saved / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(VocabularyError, match="gives <PIXEL_3> the id 434, this tokenizer gives it 433"):
        pt.PerceptionVocabulary.from_pretrained(saved)


def test_a_tokenizer_without_the_tokens(saved: Path, tmp_path: Path) -> None:
    class Bare(dict[str, int]):
        def get_vocab(self) -> dict[str, int]:
            return self

    with pytest.raises(VocabularyError, match="gives <DEPTH_START> the id 300, this tokenizer lacks it"):
        pt.PerceptionVocabulary.from_pretrained(saved, Bare(a=0))


def test_other_base_tokens_are_refused(saved: Path, bare: PreTrainedTokenizerFast) -> None:
    inner = json.loads(bare.backend_tokenizer.to_str())
    inner["model"]["vocab"]["renamed"] = inner["model"]["vocab"].pop("filler20")
    from tokenizers import Tokenizer

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(inner)), unk_token="<unk>")
    with pytest.raises(
        VocabularyError, match="perception tokens agree, but the other tokens below id 766 have the hash"
    ):
        pt.PerceptionVocabulary.from_pretrained(saved, other)


def test_another_codec_is_refused(saved: Path) -> None:
    with pytest.raises(VocabularyError, match="codes of the codec c0dec, this codec is 0ther"):
        pt.PerceptionVocabulary.from_pretrained(saved, codec_fingerprint="0ther")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("tokens", {}),
        ("tokens", None),
        ("token_sets", [{"name": "DEPTH", "colour": "red"}]),
        ("size", 10),
        ("size", "many"),
        ("codec_fingerprint", 7),
    ],
)
def test_a_damaged_manifest_is_refused(saved: Path, key: str, value: object) -> None:
    written = json.loads((saved / MANIFEST).read_text())
    written[key] = value
    (saved / MANIFEST).write_text(json.dumps(written))
    with pytest.raises(VocabularyError, match=f"{MANIFEST} (is not a manifest|has format 2)"):
        pt.PerceptionVocabulary.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"format": 1}', b"\xff\xfe"])
def test_a_file_without_a_manifest_is_refused(saved: Path, content: bytes) -> None:
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(VocabularyError, match=MANIFEST):
        pt.PerceptionVocabulary.from_pretrained(saved)


def test_missing_files_are_named(bare: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"cannot read .*save it with PerceptionVocabulary.save_pretrained"):
        pt.PerceptionVocabulary.from_pretrained(tmp_path)
    extend_vocabulary(bare).save_pretrained(tmp_path / "new")
    with pytest.raises(VocabularyError, match="no tokenizer loads from"):
        pt.PerceptionVocabulary.from_pretrained(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create the folder"):
        pt.PerceptionVocabulary.from_tokenizer(bare).save_pretrained(tmp_path / "file")
    with pytest.raises(VocabularyError, match="not made from a tokenizer"):
        consecutive_vocabulary().save_pretrained(tmp_path)


def test_the_fingerprint_covers_only_base_tokens(bare: PreTrainedTokenizerFast) -> None:
    plain, late = copy.deepcopy(bare), copy.deepcopy(bare)
    late.add_tokens([AddedToken("<extra>")])
    first, second = extend_vocabulary(plain), extend_vocabulary(late)
    assert first.base_fingerprint == extend_vocabulary(plain).base_fingerprint
    assert first.base_fingerprint != second.base_fingerprint
