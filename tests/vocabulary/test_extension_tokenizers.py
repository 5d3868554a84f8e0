"""Extension of tokenizers: single, plain tokens that round-trip in any context."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer, CTRLTokenizer, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.vocabulary import extend_vocabulary

ALL = (*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens)
COMPANY = ["a", "The depth map is ", "(", ",", ").", "\n", "\n\n", "é", " and ", "Bounding box 1: ", "</s>x", "<", ">"]


@pytest.fixture(scope="module")
def llama(shared: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer")
    extend_vocabulary(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def reloaded(llama: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    llama.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_tokens_have_auroras_order(llama: PreTrainedTokenizerFast) -> None:
    assert len(llama) == 32466
    assert llama.convert_tokens_to_ids(list(ALL)) == list(range(32000, 32466))


@pytest.mark.parametrize("which", ["llama", "reloaded"])
def test_every_token_is_one_plain_token(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    added_tokens = tokenizer.added_tokens_decoder
    for index, token in enumerate(ALL, start=32000):
        assert tokenizer.encode(token, add_special_tokens=False) == [index]
        added = added_tokens[index]
        flags = (added.special, added.normalized, added.single_word, added.lstrip, added.rstrip)
        assert not any(flags)
    assert not set(ALL) & set(tokenizer.all_special_tokens)


@settings(max_examples=30)
@given(pieces=st.lists(st.one_of(st.sampled_from(ALL), st.sampled_from(COMPANY)), min_size=1, max_size=12))
@pytest.mark.parametrize("which", ["llama", "reloaded"])
def test_tokens_round_trip_in_any_context(which: str, request: pytest.FixtureRequest, pieces: list[str]) -> None:
    tokenizer = request.getfixturevalue(which)
    text = "".join(pieces)
    ids = tokenizer.encode(text, add_special_tokens=False)
    expected = [32000 + ALL.index(piece) for piece in pieces if piece in ALL]
    assert [index for index in ids if index >= 32000] == expected
    # Llama's own tokenizer takes one leading space of a text for its own, and </s> is a special token.
    assert tokenizer.decode(ids) == text.removeprefix(" ")
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == text.replace("</s>", "").removeprefix(" ")


def test_a_block_survives_skipping_special_tokens(reloaded: PreTrainedTokenizerFast) -> None:
    block = pt.tokens.DEPTH.start + "".join(pt.tokens.DEPTH.token(code) for code in range(100)) + pt.tokens.DEPTH.end
    text = f"The depth map for the image is {block}."
    ids = reloaded(text).input_ids
    assert len(ids) == 1 + 8 + 102 + 1
    assert reloaded.decode(ids, skip_special_tokens=True) == text
    assert reloaded.decode(ids) == "<s> " + text


def test_a_byte_level_tokenizer() -> None:
    from tokenizers import decoders, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    inner = Tokenizer(BPE({letter: index for index, letter in enumerate(sorted(letters))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    extend_vocabulary(tokenizer)
    text = "x <DEPTH_START><DEPTH_5>\n<PIXEL_3>,<PIXEL_335>é (<PIXEL_0>)"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_some_sets_and_custom_sets(bare: PreTrainedTokenizerFast) -> None:
    angle = pt.tokens.TokenSet("ANGLE", 12)
    vocab = extend_vocabulary(bare, token_sets=(pt.tokens.PIXEL, angle))
    assert vocab.ids(pt.tokens.PIXEL).tolist() == list(range(300, 636))
    assert vocab.ids(angle).tolist() == list(range(636, 648))
    assert "<DEPTH_START>" not in bare.get_vocab()


# ------------------------------------------------------------------------- tokens that others added, another way


def added_as_plain(tokenizer: PreTrainedTokenizerFast) -> bool:
    flags = ("special", "normalized", "single_word", "lstrip", "rstrip")
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    return not any(getattr(added[token], flag) for token in ALL for flag in flags)


@pytest.mark.parametrize("flag", ["special", "normalized", "single_word", "lstrip", "rstrip"])
def test_a_flag_is_cleared(bare: PreTrainedTokenizerFast, flag: str) -> None:
    bare.add_tokens([AddedToken("<DEPTH_5>", **{"special": False, "normalized": False, flag: True})])
    with pytest.warns(UserWarning, match=rf"had 1 perception tokens, <DEPTH_5> first.*\(1 {flag}\).*300 for <DEPTH_5>"):
        vocab = extend_vocabulary(bare)
    assert vocab.token_id(pt.tokens.DEPTH, 5) == 300
    assert added_as_plain(bare)
    extend_vocabulary(bare)  # and there is nothing left to warn of


@pytest.mark.parametrize("way", ["auroras", "special", "extra", "both"])
@pytest.mark.parametrize("model", ["llama", "bare"])
def test_all_flags_of_a_tokenizer_are_cleared(
    shared: Path, bare: PreTrainedTokenizerFast, way: str, model: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "llama2_tokenizer") if model == "llama" else bare
    if way in ("auroras", "both"):
        tokenizer.add_tokens(list(ALL))
    if way == "special":
        tokenizer.add_tokens(list(ALL), special_tokens=True)
    if way in ("extra", "both"):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", *ALL]})
    before, text = tokenizer.get_vocab(), "a map<DEPTH_START><DEPTH_5><DEPTH_END> (<PIXEL_3>,<PIXEL_335>)"
    special = [token for token in tokenizer.all_special_tokens if token not in ALL]
    with pytest.warns(UserWarning, match=r"had 466 perception tokens, <DEPTH_START> first"):
        extend_vocabulary(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded.get_vocab() == before
        assert added_as_plain(loaded)
        assert loaded.all_special_tokens == special
        ids = loaded.encode(text, add_special_tokens=False)
        assert [loaded.decode([index]) for index in ids if index in {before[token] for token in ALL}] == [
            "<DEPTH_START>", "<DEPTH_5>", "<DEPTH_END>", "<PIXEL_3>", "<PIXEL_335>"
        ]  # fmt: skip
        if model == "llama":
            assert loaded.decode(ids, skip_special_tokens=True) == text


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    slow = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    with pytest.raises(VocabularyError, match="CTRLTokenizer is not a fast tokenizer"):
        extend_vocabulary(slow)


def test_a_token_with_another_role_is_refused(bare: PreTrainedTokenizerFast) -> None:
    bare.add_special_tokens({"pad_token": "<PIXEL_0>"})
    with pytest.raises(VocabularyError, match="has <PIXEL_0> already, as its pad_token, a special token"):
        extend_vocabulary(bare)
    assert len(bare) == 301


def test_a_token_of_the_base_vocabulary_is_refused() -> None:
    inner = Tokenizer(WordLevel({"<unk>": 0, "<PIXEL_3>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with pytest.raises(VocabularyError, match=r"has <PIXEL_3> already, as a piece of its base vocabulary \(id 1\)"):
        extend_vocabulary(tokenizer)


def test_gaps_in_the_ids_are_refused() -> None:
    inner = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 7}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with pytest.raises(VocabularyError, match="ids have gaps: 3 tokens, ids up to 7; new tokens would take id 7"):
        extend_vocabulary(tokenizer)
    assert len(tokenizer) == 3


def test_partial_presence_in_any_order(bare: PreTrainedTokenizerFast) -> None:
    scattered = copy.deepcopy(bare)
    scattered.add_tokens([AddedToken(token, normalized=False) for token in ("<PIXEL_9>", "<DEPTH_END>", "<DEPTH_3>")])
    vocab = extend_vocabulary(scattered)
    assert vocab.token_id(pt.tokens.PIXEL, 9) == 300
    assert vocab.end_id(pt.tokens.DEPTH) == 301
    assert vocab.start_id(pt.tokens.DEPTH) == 303
    assert sorted(vocab.tokens.values()) == list(range(300, 766))
