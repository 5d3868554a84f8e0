"""All kinds of pre-tokenizers: tokens are encoded as their ids, and text is decoded as other text is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.vocabulary import extend_vocabulary

SPECIAL = ["<unk>", "<s>", "</s>"]
LETTERS = sorted(set("The depth map is\nBounding box 1: (1,2).éabcxy<>_DEPTH_PIXEL_0123456789"))
BLOCK = pt.tokens.DEPTH.start + "".join(pt.tokens.DEPTH.token(code) for code in range(100)) + pt.tokens.DEPTH.end
TEXTS = [
    f"The depth map is {BLOCK}.",
    "Bounding box 1: (<PIXEL_1>,<PIXEL_20>,<PIXEL_300>,<PIXEL_335>)",
    "x<DEPTH_5>y",
    "<DEPTH_5>\n<DEPTH_6>",
    "é<PIXEL_3> a\n\nb <PIXEL_4>,",
    "<DEPTH_1><DEPTH_12><DEPTH_127>",
    "<DEPTH_START> <DEPTH_END>",
    "<DEPTH_ <DEPTH_5 > <<DEPTH_7>>",
]
TOKEN = re.compile("|".join(sorted((*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens), key=len, reverse=True)))


def byte_level(prefix: bool) -> Tokenizer:
    """GPT-2, Llama 3, Qwen, SmolLM."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate([*SPECIAL, *letters])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    return made


def metaspace(scheme: str) -> Tokenizer:
    """SentencePiece's BPE: Llama 2 and Mistral with "first"."""
    letters = [*SPECIAL, "▁", *(letter for letter in LETTERS if letter != " ")]
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return made


def prepended() -> Tokenizer:
    """The older form of Llama's tokenizer.json, where no class of transformers rebuilds it."""
    made = metaspace("never")
    made.pre_tokenizer = None
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


def replaced() -> Tokenizer:
    """Gemma and PaliGemma."""
    made = metaspace("never")
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return made


def unigram() -> Tokenizer:
    """T5."""
    scores = [(piece, -float(index)) for index, piece in enumerate([*SPECIAL, "▁", *LETTERS])]
    made = Tokenizer(models.Unigram(scores, unk_id=0))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    return made


def word_piece() -> Tokenizer:
    """BERT, in lower case, without accents."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator([" ".join(LETTERS)], trainer)
    return made


EXACT: dict[str, Callable[[], Tokenizer]] = {
    "byte level": lambda: byte_level(prefix=False),
    "metaspace, first": lambda: metaspace("first"),
    "replaced": replaced,
}
SPACED: dict[str, Callable[[], Tokenizer]] = {
    "byte level, prefix": lambda: byte_level(prefix=True),
    "metaspace, always": lambda: metaspace("always"),
    "prepended": prepended,
    "unigram": unigram,
    "word piece": word_piece,
}


@pytest.fixture(params=["made", "loaded"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Tokenizer], PreTrainedTokenizerFast]:
    """An extended tokenizer, as it is or after saving and loading."""

    def build(inner: Tokenizer) -> PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
        )
        extend_vocabulary(tokenizer)
        if request.param == "made":
            return tokenizer
        tokenizer.save_pretrained(tmp_path)
        return AutoTokenizer.from_pretrained(tmp_path)  # type: ignore[no-any-return]

    return build


@pytest.mark.parametrize("name", [*EXACT, *SPACED])
def test_every_token_is_encoded_as_its_id(made: Callable[[Tokenizer], PreTrainedTokenizerFast], name: str) -> None:
    tokenizer = made({**EXACT, **SPACED}[name]())
    vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        there = TOKEN.findall(text)
        assert [index for index in ids if vocab.is_perception(index)] == [vocab.tokens[token] for token in there]
        for skip in (False, True):
            assert TOKEN.findall(tokenizer.decode(ids, skip_special_tokens=skip)) == there


@pytest.mark.parametrize("name", EXACT)
def test_texts_round_trip_exactly(made: Callable[[Tokenizer], PreTrainedTokenizerFast], name: str) -> None:
    tokenizer = made(EXACT[name]())
    for text in TEXTS:
        for skip in (False, True):
            assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=skip) == text


@pytest.mark.parametrize("name", SPACED)
def test_texts_round_trip_up_to_added_spaces(made: Callable[[Tokenizer], PreTrainedTokenizerFast], name: str) -> None:
    """Such tokenizers begin every stretch of text with a space, also one after a token; nothing else changes.

    WordPiece forgets all spaces, and the case of other text besides.
    """
    tokenizer = made(SPACED[name]())
    for text in TEXTS:
        back = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)
        if name == "word piece":
            assert TOKEN.findall(back) == TOKEN.findall(text)
        else:
            assert "".join(back.split()) == "".join(text.split())
            assert BLOCK not in text or BLOCK in back
        assert pt.boxes.parse_boxes(back).boxes.tolist() == pt.boxes.parse_boxes(text).boxes.tolist()
