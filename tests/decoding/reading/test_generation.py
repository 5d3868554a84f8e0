"""Parsing of outputs, complete and as a stream: spans that cover everything, and problems with their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import StreamEvent, TokenStream, parse_generation
from perceptok.errors import ConstraintError
from tests.decoding.conftest import with_perception_tokens
from tests.decoding.engines.test_huggingface import block_ids, box_ids

CODES = (7 * np.arange(100) % 128).reshape(10, 10)
BLOCK = "<DEPTH_START>" + "".join(f"<DEPTH_{code}>" for code in CODES.ravel()) + "<DEPTH_END>"


def box(*codes: int, between: str = ",") -> str:
    return between.join(f"<PIXEL_{code}>" for code in codes)


class TestText:
    def test_order_positions_and_codes(self, vocab: pt.PerceptionVocabulary) -> None:
        spaced, compact = box(5, 5, 5, 5, between=", "), box(0, 0, 9, 9, between="")
        text = f"A map: {BLOCK}. Box 1: ({box(1, 2, 3, 4)}), ({spaced}){compact}"
        parsed = parse_generation(text, vocab)
        assert parsed.problems == ()
        assert [span.kind for span in parsed.spans] == ["text", "depth", "text", "box", "text", "box", "box"]
        assert [text[span.start : span.end] for span in parsed.spans if span.kind == "text"] == [
            "A map: ",
            ". Box 1: ",
            ", ",
        ]
        assert text[parsed.spans[3].start : parsed.spans[3].end] == f"({box(1, 2, 3, 4)})"
        (codes,) = parsed.blocks
        np.testing.assert_array_equal(codes, CODES)
        np.testing.assert_array_equal(parsed.boxes, [[1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 9, 9]])

    @pytest.mark.parametrize("between", [" ", "  ", "\t"])
    def test_space_between_tokens(self, vocab: pt.PerceptionVocabulary, between: str) -> None:
        """As decoding with some tokenizers gives it: one rule for blocks and boxes, here and for `parse_boxes`."""
        block, boxes = BLOCK.replace("><", f">{between}<"), f"({box(1, 2, 3, 4)}) {box(0, 0, 9, 9, between='')}"
        for one in ("(", ")", ",", "><"):
            boxes = boxes.replace(one, between.join(["", *one, ""]) if one != "><" else f">{between}<")
        text = f"A map: {block} , {boxes}"
        parsed = parse_generation(text, vocab)
        assert parsed.problems == ()
        np.testing.assert_array_equal(parsed.blocks, [CODES])
        np.testing.assert_array_equal(parsed.boxes, [[1, 2, 3, 4], [0, 0, 9, 9]])
        assert text[parsed.spans[1].start : parsed.spans[1].end] == block
        np.testing.assert_array_equal(pt.boxes.parse_boxes(boxes).boxes, parsed.boxes)
        spans = [[span.start, span.end] for span in parse_generation(boxes, vocab).spans if span.kind == "box"]
        assert pt.boxes.parse_boxes(boxes).spans.tolist() == spans

    def test_a_block_in_rows_and_boxes_on_lines(self, vocab: pt.PerceptionVocabulary) -> None:
        """Lines part compact boxes, which have no other frame; a block has its markers."""
        rows = "\n".join("".join(f"<DEPTH_{code}>" for code in row) for row in CODES.tolist())
        parsed = parse_generation(f"<DEPTH_START>\n{rows}\n<DEPTH_END>", vocab)
        assert parsed.problems == ()
        np.testing.assert_array_equal(parsed.blocks, [CODES])
        cut = f"{box(1, 2, 3, between='')}\n{box(4, 5, 6, 7, between='')}"
        parsed = parse_generation(cut, vocab)
        np.testing.assert_array_equal(parsed.boxes, [[4, 5, 6, 7]])
        np.testing.assert_array_equal(pt.boxes.parse_boxes(cut).boxes, parsed.boxes)
        assert [problem.message for problem in parsed.problems] == ["a box of 3 coordinates; a box has 4"]

    @given(
        st.lists(
            st.sampled_from(
                [
                    "word ",
                    "(",
                    ")",
                    ",",
                    "<DEPTH_3>",
                    "<DEPTH_START>",
                    "<DEPTH_END>",
                    BLOCK,
                    "<PIXEL_3>",
                    "<PIXEL_999>",
                    f"({box(1, 2, 3, 4)})",
                    "<",
                    "<DEPTH_x>",
                ]
            ),
            max_size=8,
        )
    )
    @settings(max_examples=100)
    def test_spans_cover_everything(self, vocab: pt.PerceptionVocabulary, parts: list[str]) -> None:
        text = "".join(parts)
        parsed = parse_generation(text, vocab)
        edges = [0, *(span.end for span in parsed.spans)]
        assert [span.start for span in parsed.spans] == edges[:-1]
        assert edges[-1] == len(text)
        assert all(a.kind != "text" or b.kind != "text" for a, b in zip(parsed.spans, parsed.spans[1:], strict=False))
        for problem in parsed.problems:
            assert any(s.kind == "text" and s.start <= problem.start < problem.end <= s.end for s in parsed.spans)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (BLOCK[:-11], "an unclosed depth block of 100 codes"),
            (BLOCK.replace("<DEPTH_7>", "", 1), "a depth block of 99 codes; a block has 100"),
            (BLOCK.replace("<DEPTH_7>", "<DEPTH_7><DEPTH_7>", 1), "an unclosed depth block of 100 codes"),
            (BLOCK.replace("<DEPTH_7>", "<DEPTH_128>", 1), "depth code 1 of the block does not exist"),
            (BLOCK.replace("<DEPTH_7>", "<DEPTH_07>", 1), "depth code 1 of the block does not exist"),
            (BLOCK.replace("<DEPTH_7>", ".<DEPTH_7>", 1), "an unclosed depth block of 1 codes"),
            ("a <DEPTH_END>", "an end without a beginning"),
            ("a <DEPTH_3><DEPTH_4>", "2 depth codes outside a block"),
            (f"({box(1, 2, 3)})", "a box of 3 coordinates"),
            (f"({box(5, 2, 3, 4)})", "a box with x2 < x1: [5, 2, 3, 4]"),
            (f"({box(1, 5, 3, 4)})", "a box with y2 < y1"),
            (f"({box(1, 2, 3, 336)})", "coordinate 3 of a box does not exist (codes are 0..335)"),
            (f"({box(1, 2, 3, 4)}", "a box with commas lacks a bracket"),
            (f"{box(1, 2, 3, 4)})", "a box with commas lacks a bracket"),
            (box(1, 2, between=" and "), "a box of 1 coordinates"),
        ],
    )
    def test_problems(self, vocab: pt.PerceptionVocabulary, text: str, message: str) -> None:
        parsed = parse_generation(f"before {text} after", vocab)
        assert message in parsed.problems[0].message
        assert [span.kind for span in parsed.spans] == ["text"]

    def test_nothing(self, vocab: pt.PerceptionVocabulary) -> None:
        for empty in ("", [], torch.zeros(0, dtype=torch.long)):
            parsed = parse_generation(empty, vocab)
            assert parsed.spans == parsed.problems == ()
            assert parsed.boxes.shape == (0, 4)

    def test_sets_that_the_vocabulary_lacks_are_text(self, tokenizer: PreTrainedTokenizerFast) -> None:
        boxes_alone = pt.PerceptionVocabulary.from_tokenizer(tokenizer, (pt.tokens.PIXEL,))
        parsed = parse_generation(f"{BLOCK}({box(1, 2, 3, 4)})", boxes_alone)
        assert [span.kind for span in parsed.spans] == ["text", "box"]


class TestIds:
    def test_order_positions_and_codes(self, vocab: pt.PerceptionVocabulary) -> None:
        ids = [4, *block_ids(vocab), *box_ids(vocab, 1, 2, 3, 4), *[vocab.token_id(pt.tokens.PIXEL, 9)] * 4]
        for given_ids in (ids, torch.tensor(ids)):
            parsed = parse_generation(given_ids, vocab)
            assert parsed.problems == ()
            spans = [(span.kind, span.start, span.end) for span in parsed.spans]
            assert spans == [
                ("text", 0, 1),
                ("depth", 1, 103),
                ("text", 103, 104),
                ("box", 104, 111),
                ("text", 111, 112),
                ("box", 112, 116),
            ]
            np.testing.assert_array_equal(parsed.blocks[0], CODES)
            np.testing.assert_array_equal(parsed.boxes, [[1, 2, 3, 4], [9, 9, 9, 9]])

    def test_problems(self, vocab: pt.PerceptionVocabulary) -> None:
        ids = [*block_ids(vocab, 50), 4, *block_ids(vocab, 3)[1:], *box_ids(vocab, 5, 2, 3, 4), *box_ids(vocab, 1)]
        assert [(one.start, one.end) for one in parse_generation(ids, vocab).problems] == [
            (0, 51),
            (52, 55),
            (56, 63),
            (65, 66),
        ]

    def test_ids_beyond_the_tokenizer_are_text(self, vocab: pt.PerceptionVocabulary) -> None:
        assert [span.kind for span in parse_generation([-100, 10_000_000], vocab).spans] == ["text"]


@pytest.fixture(scope="module")
def spaced_vocab() -> pt.PerceptionVocabulary:
    """A tokenizer with the pieces that SentencePiece and byte-level BPE have around coordinates."""
    words = ["<unk>", "a", *PIECES]
    bare = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    return pt.PerceptionVocabulary.from_tokenizer(
        with_perception_tokens(PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>"))
    )


PIECES = {
    "\u2581": " ", "\u2581(": " (", "(": "(", ",": ",", "\u0120,": " ,", ")": ")", ").": ").", "),": "),", "),(": "),(",
    "):": "):", "\u010a": "\n", "box:(": "box:(", "and": "and", "<0x0A>": "\n",
    "\u00a0": "\u00a0", "\u3000,": "\u3000,", "\u200b": "\u200b", "</s>": "</s>", "<|im_end|>": "<|im_end|>",
}  # fmt: skip
"""Tokens of a tokenizer, and their text."""
SEPARATORS = st.sampled_from(sorted(PIECES))
DAMAGE = st.one_of(
    SEPARATORS.map(lambda piece: [piece]),
    st.integers(0, 335).map(lambda code: [f"<PIXEL_{code}>"]),
    st.sampled_from(["<DEPTH_3>", "<DEPTH_START>", "<DEPTH_END>"]).map(lambda token: [token]),
    st.tuples(
        st.sampled_from(["(", "\u2581(", "box:("]),
        st.lists(st.integers(0, 335), min_size=2, max_size=5),
        st.sampled_from([")", ").", "),"]),
    ).map(
        lambda parts: [
            parts[0],
            *[token for code in parts[1] for token in (f"<PIXEL_{code}>", ",")][:-1],
            parts[2],
        ]
    ),
    st.sampled_from([[], ["\u2581"], ["<0x0A>"], ["\u2581", "\u2581"], ["\u00a0"], ["\u200b"], ["</s>"]])
    .map(lambda space: [token for code in CODES.ravel() for token in (f"<DEPTH_{code}>", *space)])
    .map(lambda inside: ["<DEPTH_START>", *inside, "<DEPTH_END>"]),
)


class TestIdsAndTextReadTheSame:
    @given(st.lists(DAMAGE, max_size=7), st.data())
    @settings(max_examples=300, deadline=None)
    def test_damaged_outputs(
        self, spaced_vocab: pt.PerceptionVocabulary, parts: list[list[str]], data: st.DataObject
    ) -> None:
        tokens = [token for part in parts for token in part]
        if tokens and data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(tokens) - 1))
            change = data.draw(st.sampled_from(["lose", "double", "swap", "cut", "repeat", "interleave"]))
            if change == "lose":
                del tokens[place]
            elif change == "double":
                tokens.insert(place, tokens[place])
            elif change == "cut":
                tokens = tokens[:place]
            elif change == "repeat":
                tokens += tokens[place:]
            elif change == "interleave":
                halves = zip(tokens[:place], tokens[place:], strict=False)
                tokens = [token for pair in halves for token in pair]
            else:
                tokens[place - 1], tokens[place] = tokens[place], tokens[place - 1]
        known = {token: index for index, token in enumerate(["<unk>", "a", *PIECES])} | spaced_vocab.tokens
        ids, text = [known[token] for token in tokens], "".join(PIECES.get(token, token) for token in tokens)
        by_text, by_ids = parse_generation(text, spaced_vocab), parse_generation(ids, spaced_vocab)
        assert by_ids.boxes.tolist() == by_text.boxes.tolist()
        assert [block.tolist() for block in by_ids.blocks] == [block.tolist() for block in by_text.blocks]
        assert [problem.message for problem in by_ids.problems] == [problem.message for problem in by_text.problems]
        stream = TokenStream(spaced_vocab)
        events = [*stream.feed(ids), *stream.close()]
        found = [(span.kind, span.start, span.end) for span in by_ids.spans if span.kind != "text"]
        assert [event for event in told(events) if event[0] in ("depth", "box")] == found
        boxes = [event.codes.tolist() for event in events if event.kind == "box" and event.codes is not None]
        assert boxes == by_text.boxes.tolist()

    @pytest.mark.parametrize(
        ("tokens", "boxes"),
        [
            (["(", 10, ",", 20, ")", ",", "(", 30, ",", 40, ")"], []),
            (["(", 10, ",", 20, "),(", 30, ",", 40, ")"], []),
            (["(", 10, ",", 20, ",", 30, "),(", 40, ",", 50, ",", 60, ",", 70, ")"], [[40, 50, 60, 70]]),
            (["(", 1, ",", "\u2581", 2, ",", 3, ",", 4, ")"], [[1, 2, 3, 4]]),
            ([1, "and", 2, "and", 3, "and", 4], []),
            ([1, "\u2581", 2, "\u2581", 3, "\u2581", 4], [[1, 2, 3, 4]]),
        ],
    )
    def test_points_triples_and_spaces(
        self, spaced_vocab: pt.PerceptionVocabulary, tokens: list[str | int], boxes: list[list[int]]
    ) -> None:
        known = {token: index for index, token in enumerate(["<unk>", "a", *PIECES])} | spaced_vocab.tokens
        ids = [known[token if isinstance(token, str) else f"<PIXEL_{token}>"] for token in tokens]
        assert parse_generation(ids, spaced_vocab).boxes.tolist() == boxes
        events = TokenStream(spaced_vocab).feed([*ids, 1])
        assert [event.codes.tolist() for event in events if event.kind == "box" and event.codes is not None] == boxes

    def test_without_a_tokenizer_only_compact_boxes_are_read(self) -> None:
        vocab = pt.vocabulary.consecutive_vocabulary()
        first = [vocab.token_id(pt.tokens.PIXEL, code) for code in (1, 2, 3, 4)]
        assert parse_generation(first, vocab).boxes.tolist() == [[1, 2, 3, 4]]
        parsed = parse_generation([first[0], 5, first[1], 5, first[2], 5, first[3]], vocab)
        assert len(parsed.boxes) == 0
        assert len(parsed.problems) == 4


def told(events: list[StreamEvent]) -> list[tuple[str, int, int]]:
    return [(event.kind, event.start, event.end) for event in events]


class TestStream:
    def test_rows_as_they_come(self, vocab: pt.PerceptionVocabulary) -> None:
        stream = TokenStream(vocab)
        ids = block_ids(vocab)
        assert stream.partial is None
        assert stream.feed(ids[0]) == []
        assert stream.feed(ids[1:10]) == []
        (row,) = stream.feed(ids[10])
        assert (row.kind, row.row, row.block, row.start, row.end) == ("row", 0, 0, 1, 11)
        np.testing.assert_array_equal(row.codes, CODES[0])
        assert stream.partial is not None
        np.testing.assert_array_equal(stream.partial[0], CODES[0])
        assert (stream.partial[1:] == -1).all()
        events = stream.feed(ids[11:])
        assert [event.row for event in events[:-1]] == list(range(1, 10))
        assert told(events[-1:]) == [("depth", 0, 102)]
        np.testing.assert_array_equal(events[-1].codes, CODES)
        assert stream.partial is None
        assert stream.feed(block_ids(vocab))[-1].block == 1

    PARTS = st.lists(
        st.sampled_from(["text", "comma", "code", "start", "end", "block", "short", "pixel", "compact", "box", "four"]),
        max_size=9,
    )

    @given(PARTS)
    @settings(max_examples=100)
    def test_the_same_blocks_and_boxes_as_at_once(self, vocab: pt.PerceptionVocabulary, parts: list[str]) -> None:
        pixel = vocab.token_id(pt.tokens.PIXEL, 3)
        made = {
            "text": [4],
            "comma": [8],
            "code": [vocab.token_id(pt.tokens.DEPTH, 1)],
            "start": [vocab.start_id(pt.tokens.DEPTH)],
            "end": [vocab.end_id(pt.tokens.DEPTH)],
            "block": block_ids(vocab),
            "short": block_ids(vocab, 12),
            "pixel": [pixel],
            "box": [4, *box_ids(vocab, 1, 2, 3, 4), 4],
            "compact": [pixel] * 4,
            "four": [4, pixel, pixel, pixel, pixel, 4],
        }
        ids = [one for part in parts for one in made[part]]
        stream, parsed = TokenStream(vocab), parse_generation(ids, vocab)
        fed = [event for start in range(0, len(ids), 7) for event in stream.feed(torch.tensor(ids[start : start + 7]))]
        events = [*fed, *stream.close()]
        whole = [(span.kind, span.start, span.end) for span in parsed.spans if span.kind != "text"]
        assert [one for one in told(events) if one[0] in ("depth", "box")] == whole
        # Codes outside a block come one by one from the stream.
        wrong = [place for one in events if one.kind == "problem" for place in range(one.start, one.end)]
        assert wrong == [place for one in parsed.problems for place in range(one.start, one.end)]

    def test_what_breaks_and_what_is_left(self, vocab: pt.PerceptionVocabulary) -> None:
        stream = TokenStream(vocab)
        broken = stream.feed([*block_ids(vocab, 12), 4])
        assert told(broken) == [("row", 1, 11), ("problem", 0, 13), ("text", 13, 14)]
        assert broken[1].message == "a block of 12 codes, broken by text"
        assert [event.message for event in stream.feed([*block_ids(vocab)[:-1], vocab.token_id(pt.tokens.DEPTH, 1)])][
            -2:
        ] == [
            "a block of 100 codes, broken by one code too many",
            "a depth code outside a block",
        ]
        stream = TokenStream(vocab)
        assert told(stream.feed(box_ids(vocab, 1, 2))[-1:]) == [("text", 2, 3)]
        assert told(stream.close()) == [("problem", 1, 4)]
        assert told(stream.feed(block_ids(vocab, 3))) == []
        assert stream.close()[0].message == "a block of 3 codes, broken by the end"

    def test_as_a_streamer(
        self, model: LlamaForCausalLM, vocab: pt.PerceptionVocabulary, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        from perceptok.decoding import GrammarConfig, PerceptionLogitsProcessor

        processor = PerceptionLogitsProcessor(vocab, GrammarConfig(force_block="first"), tokenizer=tokenizer)
        events: list[StreamEvent] = []
        given_ids: dict[str, Any] = {"logits_processor": [processor.for_prompt(2)], "max_new_tokens": 102}
        ids = model.generate(torch.tensor([[1, 4]]), streamer=TokenStream(vocab, events.append), **given_ids)
        assert [event.kind for event in events] == ["row"] * 10 + ["depth"]
        np.testing.assert_array_equal(events[-1].codes, parse_generation(ids[0], vocab).blocks[0])
        with pytest.raises(ConstraintError, match="a batch of 2"):
            TokenStream(vocab).put(torch.zeros(2, 3))
