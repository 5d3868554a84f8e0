"""The tokens of an answer in prose: words, choices, numbers, and what leads to each of them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from perceptok.decoding.reading.number_words import NUMBER, normalize_numbers, read_digits, words

__all__ = ["AnswerTokens", "Token"]


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: A "word", a "letter" that names a choice, a "number", a "mark" or the end of a "line".
        text: As written, in lower case.
        value: Of a letter, in upper case; of a number, in digits; else empty.
        start: Index of its first character.
        end: One more than the index of its last character.
    """

    kind: Literal["word", "letter", "number", "mark", "line"]
    text: str
    value: str
    start: int
    end: int


_NOUNS = words(
    "point points option options marker markers letter letters label labels labeled labelled circle circles "
    "choice choices dot box boxes object region punkt punto ponto точка 点 점"
)
_IS = words("is are was were be been est ist es é è 是 为 は 은 는")
_EQUALS = words(": = -> →")
_MARK_LINKS = words("( [ \" ' “ 「 { , - : = > -> →")
_WORD_LINKS = _NOUNS | words(
    "the a an that this it it's they there there's to question clearly definitely i we think believe "
    "probably likely most la le el der die das only exactly just about around approximately roughly actually "
    "currently of would should could must will might may can simply now then go going"
)
_ANSWERS = words(
    "answer ans réponse respuesta antwort risposta resposta ответ 答案 回答 正解 答え 정답 solution conclusion verdict"
)
_BEST = words("correct best final")
_PICKS = _ANSWERS | words("choice option match fit one")
_TOTALS = words("total totals totaling totalling totaled totalled sum sums makes making make altogether")
_TOTALS_BEFORE_VERB = words("total sum count number answer")
_CONCLUDE = words("therefore thus hence so conclude consequently overall finally")
_CHOOSE = words("choose choosing pick select guess say believe")
_CORRECT = words("no wait actually sorry correction mean rather")
_DENIALS = words("not neither nor never than cannot without")
_NO_ANSWERS = words(
    "not never cannot incorrect wrong unlikely anything nothing except neither não nicht kein pas не 不是 不"
)
"""Between "answer" and a choice, or before "answer", these say what it is not."""
_KEYS = words(
    "closest nearest foremost highest result choice selected selection pick winner output prediction response best top "
    "chosen foreground likely final option point letter label reconsideration revised"
)
"""Before ":" these make a choice the answer."""
_DEGREES = words("the a to be more much even most also clearly slightly significantly")
_CALLS = words("is seems appears would must remains be")
_REASONS = words("because since as than while whereas not or and")
_IF = words("if")
_OPENERS = frozenset("\n-,") | words("and")
_FAR_AFTER = words(
    "not far farther farthest further furthest less least lower behind smaller never incorrect wrong distant"
)
_COMPARISONS = _FAR_AFTER | words("closest nearest closer nearer")
_ENDS = frozenset(".!?;")
_AFTER_LETTER_A = words(
    "is are the because since as and or with seems appears has looks lies would must est ist es é was be being "
    "sits stands might may could should can will does at on in to than while but appear comes "
    "appearing closest nearest farthest furthest fits encloses localizes"
)
"""After "A" these make it a choice; any other word makes it an article."""
_AFTER_ADJECTIVE = words("closer nearer farther further more")
_RETRACTED = words("initially initial originally previously thought assumed")
"""Before "the answer is" these make it an earlier answer."""
_REACH = 12
_LINKS = _WORD_LINKS | _MARK_LINKS | _CONCLUDE
_LINK_WORDS = _LINKS | _IS | words("maybe perhaps possibly certainly has have")
_BEFORE_NAME = _LINK_WORDS | words("at on by labeled labelled marked called named but")
_OPENING = _NOUNS | words("( \" ' be the a")
_BRACKETS = {")": "(", "]": "[", '"': '"', "'": "'"}
_OR = words("or oder ou o или 或")
_AND = words("and y et &")
_SIGNS = words("/ + = ≈ |")
_ALTERNATIVES = _OR | _AND | _SIGNS | words(", ; ?")
_HEDGES = _NOUNS | words("( \" ' possibly maybe perhaps")
_CLOSING = words(") \" ' ]")
"""How many tokens a rule looks at before or after a token."""

_CJK = "一-鿿぀-ヿ가-힣"
_CJK_EDGE = re.compile(
    rf"(?<=[{_CJK}])(?=[A-Za-z\d])|(?<=[A-Za-z\d])(?=[{_CJK}])|(?=[零一二两三四五六七八九十][个只头辆匹条位名把张])"
)
_CJK_ANSWER = re.compile("(答案|回答|正解|答え|정답)([是为は은는]?)")
_TOKEN = re.compile(
    rf"{NUMBER}|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)|(?P<line>\n)|(?P<mark>->|[^\w\s])|(?P<other>\w+)", re.IGNORECASE
)

_NEAR = re.compile(
    r"\b(?:cercan|próxim|proche|nächst|näher|vicin|ближ|closest|nearest|higher (?:pixel )?value)|近|가까|가깝",
    re.IGNORECASE,
)
"""What is near, in several languages."""
_CONTRARY = re.compile(
    r"\b(?:far|further|furthest|distan|remote|deep|largest|greatest|behind|background|back\b|rear\b|least|less\b|"
    r"second\b|third\b|lejan|lejos|éloign|loin|weit|entfernt|lontan|longe|дал|exclud|eliminat|ruled?\b|except|anything|"
    r"wrong|incorrect|false|unlikely|doubt|otherwise|either|entweder|example|such\b|neither|never|cannot|than\b|without|"
    r"no[rtn]?\b(?! (?:\w+ )?(?:sure|certain))|nicht|keine?\b|pas\b|não|не\b|нет\b)|n't\b|远|遠|"
    r"멀|먼|不|没有|ない|아니",
    re.IGNORECASE,
)
"""What is far, or not the answer, in several languages."""


def _has_only_links(tokens: Sequence[Token]) -> bool:
    return all(token.kind != "word" or token.text in _LINK_WORDS for token in tokens)


class AnswerTokens:
    """A text as tokens.

    Args:
        plain: The text, as `to_plain_text` gives it.
        letters: Choices, in upper case: which single letters count, besides A to H.

    Attributes:
        plain: The text, with spaces around what is written without any, and small numbers in digits.
        tokens: Its tokens.
        letters: Places (indices of tokens) of the letters.
        numbers: Places of the numbers.
    """

    def __init__(self, plain: str, letters: frozenset[str] = frozenset()) -> None:
        plain = _CJK_EDGE.sub(" ", _CJK_ANSWER.sub(r" \1 \2 ", normalize_numbers(plain)))
        self.plain = plain
        names = letters | frozenset("ABCDEFGH")
        self.tokens: list[Token] = []
        for match in _TOKEN.finditer(plain):
            kind = "word" if match.lastgroup == "other" else match.lastgroup
            value = read_digits(match[0]) if kind == "number" else ""
            self.tokens.append(Token(kind, match[0].casefold(), value, *match.span()))  # type: ignore[arg-type]
        self._texts = [token.text for token in self.tokens]
        for place, token in enumerate(self.tokens):
            if token.kind == "word" and (token.end - token.start == 1 or token.text.endswith("'s")):
                letter = plain[token.start : token.end].removesuffix("'s")
                if letter.upper() in names and self._is_choice(place, letter):
                    self.tokens[place] = Token("letter", token.text, letter.upper(), token.start, token.end)
        self.letters = [place for place, token in enumerate(self.tokens) if token.kind == "letter"]
        self.numbers = [place for place, token in enumerate(self.tokens) if token.kind == "number"]

    def word(self, place: int) -> str:
        """The token at a place in lower case, empty outside the text."""
        return self._texts[place] if 0 <= place < len(self._texts) else ""

    def is_bracketed(self, place: int) -> bool:
        """Whether brackets or quotes stand on both sides of a token."""
        closing = self.word(place + 1)
        return closing in _BRACKETS and self.word(place - 1) == _BRACKETS[closing]

    def is_in_brackets(self, place: int) -> bool:
        """Whether a letter alone, or with a noun before it, stands in brackets: "(B)", "(option B)"."""
        before = place - 1 - (self.word(place - 1) in _NOUNS)
        return self.word(place + 1) in (")", "]") and self.word(before) == _BRACKETS[self.word(place + 1)]

    def _is_choice(self, place: int, letter: str) -> bool:
        """Whether a letter names a choice; "a" and "A" may be articles, "I" a person."""
        if (
            self._is_initial(place)
            or self.word(place - 1) == "°"
            or (self.word(place + 1), self.word(place + 2)) == ("+", "+")
        ):
            return False
        if self.word(place - 1) in _NOUNS or self.is_bracketed(place):
            return True
        following = self.tokens[place + 1] if place + 1 < len(self.tokens) else None
        if following is None and letter == "a" and place and self.tokens[place - 1].kind == "word":
            return self.word(place - 1) == "is"  # otherwise an article before a word that was cut off
        if following is None or following.kind in ("mark", "line"):
            return (not letter.islower() and letter != "I") or self.word(place - 1) != "'"
        if letter.islower() or letter == "I":
            return False
        if letter != "A" or following.kind == "number" or len(following.text) == 1:
            return True
        after = self.tokens[place + 2] if place + 2 < len(self.tokens) else None
        if following.text in _AFTER_ADJECTIVE:  # "A closer than B", but "a closer look"
            return after is None or after.kind != "word" or after.text in _AFTER_LETTER_A
        if following.text in _NOUNS:  # "A (point)", "A point A", but "a point is"
            return after is not None and len(after.text) == 1 and after.kind == "word"
        return following.text in _AFTER_LETTER_A

    def _is_initial(self, place: int) -> bool:
        """Whether a letter is one of an abbreviation, "U.S.A.", without spaces between its letters."""
        start, end = self.tokens[place].start, self.tokens[place].end
        before, after = self.plain[max(start - 2, 0) : start], self.plain[end : end + 3]
        is_before = before[1:] == "." and before[0].isalpha() and before[0] != self.plain[start]
        return is_before or (after[:1] == after[2:] == "." and after[1].isalpha() and after[1] != self.plain[start])

    # Lines and sentences

    @cached_property
    def _lines(self) -> list[int]:
        """The number of the line of each token, empty lines not counted."""
        lines, number, is_empty = [], 0, True
        for token in self.tokens:
            lines.append(number)
            if token.kind == "line":
                number += not is_empty
                is_empty = True
            elif token.kind != "mark":
                is_empty = False
        return lines

    @cached_property
    def _sentences(self) -> list[int]:
        """The place of the first token of the sentence of each token; a line that ends in ":" or "is" goes on."""
        starts, start, goes_on = [], 0, False
        for place, token in enumerate(self.tokens):
            starts.append(start)
            if self._ends_sentence(place) or (token.kind == "line" and not goes_on):
                start = place + 1
            elif token.kind != "line":
                goes_on = token.text in _EQUALS or token.text in _IS or token.text in _ANSWERS
        return starts

    def _ends_sentence(self, place: int) -> bool:
        """Whether a mark ends a sentence: not that of "Ans.", nor one in quotes within another sentence."""
        if self.tokens[place].text not in _ENDS or self.word(place - 1) == "ans":
            return False
        after = place + 1
        is_quoted = self.word(after) in _CLOSING and after + 1 < len(self.tokens)
        return not (is_quoted and self.plain[self.tokens[after + 1].start].islower())

    @cached_property
    def last_line(self) -> int:
        """The number of the last line that has more than marks."""
        return max(
            (line for line, token in zip(self._lines, self.tokens, strict=True) if token.kind not in ("line", "mark")),
            default=0,
        )

    def line_of(self, place: int) -> int:
        """The number of a token's line."""
        return self._lines[place]

    def sentence_of(self, place: int) -> int:
        """The place where a token's sentence begins."""
        return self._sentences[place]

    def is_first_on_line(self, place: int) -> bool:
        """Whether only marks, nouns such as "point", and a label before a number stand before a token on its line."""
        for before in range(place - 1, max(place - _REACH, 0) - 1, -1):
            token = self.tokens[before]
            if token.kind == "line":
                return True
            is_label = token.kind == "letter" and self.is_label(before)
            if (token.kind != "mark" and token.text not in _NOUNS and not is_label) or token.text == "°":
                return False
        return place < _REACH

    def ends_line(self, place: int) -> bool:
        """Whether only marks follow a token on its line."""
        for after in range(place + 1, min(place + _REACH, len(self.tokens))):
            if self.tokens[after].kind != "mark":
                return self.tokens[after].kind == "line"
        return True

    def ends_text(self, place: int) -> bool:
        """Whether only marks follow a token."""
        return self.ends_line(place) and self.line_of(place) == self.last_line

    def ends_phrase(self, place: int) -> bool:
        """Whether a mark or nothing follows a token and the bracket or quote that closes after it."""
        after = place + 1 + self.is_bracketed(place)
        if after >= len(self.tokens) or self.tokens[after].kind == "line":
            return True
        end = self.tokens[after].end
        is_mark = self.tokens[after].kind == "mark" and self.word(after) not in ("+", "#")
        return is_mark and not self.plain[end : end + 1].isalnum()  # not "A.I.", "B-52"

    def is_label(self, place: int) -> bool:
        """Whether a letter is written as the label of a choice: "(B)", "B)", "B.", "B:"."""
        is_short = self.word(place + 3) == "." and len(self.word(place + 2)) == 1  # "A.I."
        return self.is_bracketed(place) or (self.word(place + 1) in (")", ".", ":") and not is_short)

    @cached_property
    def _labels_of_lines(self) -> list[tuple[int, str]]:
        """Number of a line and the letter that labels it, in order."""
        places = [place for place in self.letters if self.is_label(place) and self.is_first_on_line(place)]
        lines = {self._lines[place]: self.tokens[place].value for place in reversed(places)}
        return sorted(lines.items())

    @cached_property
    def labels(self) -> frozenset[str]:
        """The letters that label a line."""
        return frozenset(letter for _, letter in self._labels_of_lines)

    def heads_list(self, place: int) -> bool:
        """Whether a letter labels a choice in a list: another label follows, on a later line or after its words."""
        line, letter = self._lines[place], self.tokens[place].value
        index = bisect_left(self._labels_of_lines, (line, ""))
        following = self._labels_of_lines[index : index + 2]
        if following[:1] == [(line, letter)] and len(following) == 2 and following[1][1] != letter:
            return True
        if not self.is_in_brackets(place):
            return False
        for number in range(place + 2, min(place + _REACH, len(self.tokens))):
            token = self.tokens[number]
            if token.text in _REASONS or self._sentences[number] != self._sentences[place]:
                return False
            if token.kind == "letter" and self.is_bracketed(number):
                return ord(token.value) == ord(letter) + 1
        return False

    def follows_colon(self, place: int) -> bool:
        """Whether a letter is the first on its line, and the line before ends in "is" or a colon."""
        for before in range(place - 1, max(place - _REACH, 0) - 1, -1):
            if self.tokens[before].kind == "line":
                while before >= 0 and self.tokens[before].kind == "line":
                    before -= 1
                return self.word(before) in _IS or self.word(before) == ":"
            if self.tokens[before].kind != "mark" and self.tokens[before].text not in _NOUNS:
                return False
        return False

    def lists_choices(self, place: int) -> bool:
        """Whether another letter in brackets stands in the sentence of a letter: "(A) 0, (B) 3"."""
        letter, sentence = self.tokens[place].value, self._sentences[place]
        for other in self.letters:
            if self._sentences[other] > sentence:
                return False
            if self._sentences[other] == sentence and self.is_bracketed(other) and self.tokens[other].value != letter:
                return True
        return False

    # What stands around a token

    def find_lead(self, place: int) -> str:
        """What leads to a letter or number, over words such as "the", "that point", "only".

        Returns:
            "answer", "total", "conclude", "choose", "correct", "equals" (":" or "=" with any other word before it),
            or "" where nothing does.
        """
        if place == 0 or (self.tokens[place - 1].kind == self.tokens[place].kind):
            return ""
        verb, has_mark, concludes, reach = "", False, False, place - 1 - _REACH
        current = place - 1
        while current >= max(reach, 0):
            token = self.tokens[current]
            if token.text in _ANSWERS:
                return "answer" if self._is_answer(current, place) else ""
            concludes = concludes or token.text in _CONCLUDE
            if token.text in _IS or token.text in _EQUALS:
                verb = verb or token.text
            elif token.kind == "line":
                if not self._goes_on(current):
                    return "conclude" if concludes else ""
            elif token.kind == "letter" and self.tokens[place].kind == "number" and self.is_label(current):
                pass  # the choice that the number stands for: "(B) 3"
            elif token.text in (")", ".") and self.is_label(current - 1) and self.tokens[current - 1].kind == "letter":
                pass
            elif token.kind == "letter" and token.value == self.tokens[place].value:
                pass  # "(A) Point A"
            elif token.kind == "letter" or token.text not in _LINKS:
                break
            has_mark = has_mark or token.kind == "mark"
            current -= 1
        lead = self._name_lead(place, current, verb, has_mark)
        return "conclude" if concludes and lead != "answer" else lead

    def _name_lead(self, place: int, current: int, verb: str, has_mark: bool) -> str:
        word, is_number = self.word(current), self.tokens[place].kind == "number"
        called = max(self._find_before(place, _ANSWERS), self._find_before(place, _BEST))
        if verb and called >= 0:
            return "answer" if self._is_answer(called, place) else ""
        names_total = word in _TOTALS or (verb and self._has_before(place, _TOTALS_BEFORE_VERB))
        if is_number and names_total and not self._follows_number(place, verb):
            return "total"
        if word in _CHOOSE or "believe" in (self.word(current + 1), self.word(current + 2)) or self._goes_with(current):
            return "" if self._is_conditional(current) else "choose"
        if word in _CORRECT and (has_mark or self.word(current - 1) in _CORRECT):
            return "correct"
        if word == "but" and self.tokens[current - 1].kind == self.tokens[place].kind and self.is_denied(current - 1):
            return "correct"  # "not A but B"
        if verb and not is_number and self._concludes(place):
            return "answer"
        is_known = is_number or self._has_before(place, _KEYS)
        is_far = self._has_before(place, _FAR_AFTER) or self._has_before(place, _NO_ANSWERS)
        is_equal = verb in _EQUALS and is_known and not is_far and not self._is_one_of_pairs(place)
        return "equals" if is_equal else ""

    def _is_answer(self, called: int, place: int) -> bool:
        """Whether a token is the answer that a word such as "answer" before it leads to, not what it is not or was."""
        if (
            self._has_before(place, _RETRACTED)
            or self.word(called - 1) in _NO_ANSWERS
            or self.word(called - 2) == "not"
        ):
            return False
        previous = bisect_left(self.letters, place) - 1
        if self.tokens[place].kind == "letter" and previous >= 0 and self.letters[previous] > called:
            other = self.letters[previous]
            if self.tokens[other].value != self.tokens[place].value and not self.is_denied(other):
                return self.word(other + 1) in _ALTERNATIVES
        start = max(called + 1, place - _REACH)
        between = [self.word(number) for number in range(start, place)]
        for separator in ("but", ","):
            between = between[len(between) - between[::-1].index(separator) :] if separator in between else between
        is_denied = any(word in _NO_ANSWERS or word.endswith("n't") for word in between)
        return not is_denied and not any(
            word in ("no", "non") and following in _IS for word, following in pairwise(between)
        )

    def _is_one_of_pairs(self, place: int) -> bool:
        """Whether the letter or number before follows ":" or the like too and is another: "first: B, second: A"."""
        places = self.letters if self.tokens[place].kind == "letter" else self.numbers
        previous = places[bisect_left(places, place) - 1] if places and places[0] < place else 0
        is_pair = previous > 0 and (
            self.word(previous - 1) in _EQUALS or self.word(previous - 2) in _EQUALS  # '"first": "B"'
        )
        return is_pair and self.tokens[previous].value != self.tokens[place].value

    def _concludes(self, place: int) -> bool:
        """Whether the sentence of a letter begins with "therefore" or the like, and does not compare."""
        start = self._sentences[place]
        while self.word(start) in _OPENERS:
            start += 1
        return start < place and self.word(start) in _CONCLUDE and not self._has_before(place, _COMPARISONS)

    def _is_conditional(self, place: int) -> bool:
        """Whether a choice holds on a condition, "if it is off, choose B", which is not "if I had to choose"."""
        condition = self._find_before(place, _IF)
        return condition >= 0 and self.word(condition + 2) not in ("had", "have", "must", "were")

    def is_called_answer(self, place: int) -> bool:
        """Whether "is correct", "is the best choice", "seems to be the answer" or the like follows a letter."""
        after, is_definite = place + 1 + self.is_bracketed(place), False
        if self.word(after) not in _CALLS:
            return False
        for number in range(after + 1, min(after + _REACH, len(self.tokens))):
            token = self.tokens[number]
            if token.kind != "word" or token.text in _DENIALS:
                return False
            if token.text == "correct" or (is_definite and token.text in _PICKS):
                return True
            is_definite = is_definite or token.text == "the"
        return False

    def _follows_number(self, place: int, verb: str) -> bool:
        """Whether a number before ":" in the sentence is the total, and this one a part: "in total 5: 2 and 3"."""
        previous = bisect_left(self.numbers, place) - 1
        return verb == ":" and previous >= 0 and self.numbers[previous] >= self._sentences[place]

    def _goes_with(self, place: int) -> bool:
        return self.word(place) in ("with", "for") and self.word(place - 1) in ("go", "going", "opt", "vote")

    def _goes_on(self, place: int) -> bool:
        """Whether a line's end is inside a sentence."""
        return self._sentences[min(place + 1, len(self.tokens) - 1)] <= place

    def _has_before(self, place: int, sought: frozenset[str]) -> bool:
        """Whether a word stands in the sentence before a place."""
        return self._find_before(place, sought) >= 0

    def _find_before(self, place: int, sought: frozenset[str]) -> int:
        """The place of the last of some words in the sentence before a place, -1 where there is none."""
        if sought not in self._last_places:
            last, places = -1, []
            for number, token in enumerate(self.tokens):
                places.append(last)
                if token.text == "but":
                    last = -1
                elif token.kind == "word" and token.text in sought:
                    last = number
            self._last_places[sought] = places
        last = self._last_places[sought][place]
        return last if last >= self._sentences[place] else -1

    @cached_property
    def _last_places(self) -> dict[frozenset[str], list[int]]:
        return {}

    def is_denied(self, place: int) -> bool:
        """Whether "not", "than" or the like stands before a token, or after a letter that it is far or wrong."""
        current = place - 1
        while current >= 0 and self._is_opening(current) and place - current < 5:
            current -= 1
        before = self.word(current - (self.word(current) in _CHOOSE))
        if before in _DENIALS or before.endswith("n't") or (before == "as" and self.word(current - 2) == "as"):
            return True
        if self.tokens[place].kind != "letter":
            return False
        after = place + 1 + (self.word(place + 1) in _CLOSING)
        if self.word(after) == "?":
            return after + 1 < len(self.tokens)
        return self.word(after).endswith("n't") or self._is_far(after)

    def _is_far(self, place: int) -> bool:
        """Whether a verb says that its subject is far or wrong: "is farther", "is the most distant"."""
        if self.word(place) not in ("is", "are", "has", "looks", "appears", "seems"):
            return False
        number = place + 1
        while self.word(number) in _DEGREES and number < place + 4:
            number += 1
        return self.word(number) in _FAR_AFTER or self.word(number + 1) in _FAR_AFTER - {"not"}

    @cached_property
    def has_only_links(self) -> bool:
        """Whether no word of the text says more than that a choice or number is the answer: "probably point B"."""
        return _has_only_links(self.tokens)

    def is_only_named(self, place: int) -> bool:
        """Whether a letter, the only one that is not denied, is named as the answer and nothing speaks against it.

        So it is where its sentence says no more, "it is B"; where the text calls something near, as in languages whose
        comparisons are not read; and at the end of a sentence, "the man at B".
        """
        if self.word(place + 1) == "?" and len({self.tokens[other].value for other in self.letters}) > 1:
            return False
        start = self._sentences[place]
        end = place
        while end < len(self.tokens) and self._sentences[end] == start:
            end += 1
        sentence = self.tokens[start:end]
        if all(token.kind != "number" and token.text != "°" for token in sentence) and _has_only_links(sentence):
            return True
        if _CONTRARY.search(self.plain):
            return False
        is_last = all(token.kind in ("mark", "line") for token in self.tokens[place + 1 : end])
        before = self.tokens[place - 1] if place else None
        is_led = before is None or before.kind == "mark" or before.text in _BEFORE_NAME
        is_near = _NEAR.search(self.plain) is not None
        return is_near or (is_last and is_led) or (self.word(place + 1) == "is" and self.word(place + 3) == "one")

    def _is_opening(self, place: int) -> bool:
        return self.word(place) in _OPENING and self.tokens[place].kind != "letter"

    def find_alternative(self, place: int) -> str | None:
        """Another letter that is named beside a letter: "B or possibly C", "A/B", "A, B, C"."""
        if earlier := self._find_earlier_alternative(place):
            return earlier
        after = place + 1 + (self.word(place + 1) in _CLOSING)
        after += self.word(after) in ("(", ",") and self.word(after + 1) in _OR | _AND
        separator = self.word(after)
        if separator not in _ALTERNATIVES:
            return self._find_described_alternative(place) if self.is_bracketed(place) else None
        other = after + 1
        while self.word(other) in _HEDGES and other < after + 4:
            other += 1
        if other >= len(self.tokens) or self.tokens[other].kind != "letter":
            return None
        letter = self.tokens[other].value
        lists = separator in _OR or separator in _SIGNS or self.ends_phrase(other)
        return letter if lists and letter != self.tokens[place].value else None

    def _find_earlier_alternative(self, place: int) -> str | None:
        """A letter before "or" that this one is another choice to: "either A or B", "could be A, or it could be B"."""
        current = place - 1
        while current > place - _REACH and self.tokens[current].kind == "word" and self.word(current) in _LINK_WORDS:
            current -= 1
        if self.word(current) not in _OR and not (self.word(current) in _SIGNS and current == place - 1):
            return None
        index = bisect_left(self.letters, current) - 1
        if index < 0 or self.letters[index] < self._sentences[place]:
            return None
        letter = self.tokens[self.letters[index]].value
        return letter if letter != self.tokens[place].value else None

    def _find_described_alternative(self, place: int) -> str | None:
        """Another choice after this one and its words: "(A) the lamp or (B) the door"."""
        for number in range(place + 1, min(place + 2 * _REACH, len(self.tokens))):
            token = self.tokens[number]
            if self._sentences[number] != self._sentences[place] or token.kind == "line":
                return None
            if token.kind == "letter" and self.is_bracketed(number):
                return token.value if self.word(number - 2) in ("or", "and") else None
        return None
