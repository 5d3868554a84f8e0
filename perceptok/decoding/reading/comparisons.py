"""Which choice a text says is nearest: statements such as "B is closer than A", put in an order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from perceptok.decoding.reading.answer_tokens import AnswerTokens
from perceptok.decoding.reading.number_words import words

__all__ = ["Compared", "read_comparisons"]


class Compared(NamedTuple):
    """What the comparisons of a text say.

    Attributes:
        letter: The nearest choice; None where they name none.
        farther: Choices that some other choice, or the text itself, is said to be nearer than.
        problem: Why they name none although there are some; empty otherwise.
    """

    letter: str | None
    farther: frozenset[str]
    problem: str = ""


_NEAREST = words("closest nearest foremost")
_NEARER = words("closer nearer")
_FARTHEST = words("farthest furthest")
_FARTHER = words("farther further behind")
_ORDINALS = words("second third fourth next 2 3 4")
_IS = words("is are be was appears appear seems seem looks has would must lies being sits")
_LINKS = words("is are be was = : -> → - belongs must would")
_VIEWERS = words(
    "camera camera's cameras viewer viewer's lens us me you observer observer's photographer viewpoint "
    "foreground perspective vantage front screen viewing point"
)
_BETTER = words("best better")
_ACCURATE = words("accurate accurately precise precisely")
_PRONOUNS = words("it they he she this these")
_RELATIVES = words("which who that whose where")
_BETWEEN_OBJECTS = words("and or both point points box boxes option ( ) , \" '")
_REVISIONS = words("but however actually wait no correction though although yet instead reconsidering inspection")
_DENIALS = words("not nor neither never isn't aren't doesn't wasn't")
_BREAKS = frozenset(".;!?")


class _Statement(NamedTuple):
    """A choice is "near" or "far", the nearest or farthest unless `objects` name what it is compared with."""

    place: int
    subject: str
    is_near: bool
    objects: tuple[str, ...] = ()


def read_comparisons(text: AnswerTokens, choices: frozenset[str]) -> Compared:
    """Read which choice is the nearest.

    The last choice that is called the nearest, or nearer without saying than what, is taken, unless a later comparison
    names a nearer one. Without one the order that all comparisons give decides: its nearest choice, where it is unique
    and was named as nearer than another; or the only choice that is left, where every other is farther.
    """
    statements = [statement for statement in _find_statements(text) if statement.subject in choices]
    compared = _order(statements, choices)
    opening = statements[0] if statements and _opens(text, statements[0]) else None
    if all(statement.objects for statement in statements):
        return compared
    if opening and compared.letter != opening.subject and not _is_revised(text, opening.place, statements[-1].place):
        return Compared(opening.subject, compared.farther - {opening.subject})
    return compared


def _order(statements: list[_Statement], choices: frozenset[str]) -> Compared:
    pairs: set[tuple[str, str]] = set()
    called: str | None = None
    farther: set[str] = set()
    named_nearer: set[str] = set()
    for statement in statements:
        objects = [letter for letter in statement.objects if letter != statement.subject]
        if statement.is_near and not objects:
            called = statement.subject
            pairs, farther = set(), farther - {called}
        elif statement.is_near:
            pairs |= {(statement.subject, letter) for letter in objects}
            named_nearer.add(statement.subject)
        elif objects:
            pairs |= {(letter, statement.subject) for letter in objects}
        else:
            farther.add(statement.subject)
    losers = frozenset({loser for _, loser in pairs} | farther)
    if called is not None and called not in losers:
        return Compared(called, losers)
    tops = {winner for winner, _ in pairs} - losers
    left = choices - losers
    if len(tops) == 1 and tops <= named_nearer:
        return Compared(next(iter(tops)), losers)
    if losers and len(left) == 1 and len(choices) > 1:
        return Compared(next(iter(left)), losers)
    if called is not None or (pairs and not tops):
        return Compared(None, losers, "its comparisons contradict each other")
    return Compared(None, losers)


def _opens(text: AnswerTokens, statement: _Statement) -> bool:
    """Whether a statement is the first sentence of the text and says what is near: its explanation follows."""
    return statement.is_near and text.sentence_of(statement.place) <= next(
        (place for place, token in enumerate(text.tokens) if token.kind == "word" or token.kind == "letter"), 0
    )


def _is_revised(text: AnswerTokens, start: int, end: int) -> bool:
    """Whether a word such as "but" or "actually" stands between two places."""
    return any(token.text in _REVISIONS for token in text.tokens[start:end])


def _find_statements(text: AnswerTokens) -> Iterator[_Statement]:
    """The statements in their order."""
    used: set[int] = set()  # letters that another is compared with
    for place in range(len(text.tokens)):
        key = _classify(text, place)
        if key is None:
            continue
        is_near, is_superlative = key
        if _is_of_something_else(text, place) or (is_superlative and _ends_ranking(text, place)):
            continue
        objects = () if is_superlative and text.word(place) not in _NEAREST else _find_objects(text, place)
        object_places = {number for number, _ in objects}
        subject = None if _names_later(text, place) else _find_subject(text, place, used)
        used |= object_places
        if subject is None and not objects:
            subject = _find_later_subject(text, place)
        if subject is None:
            continue
        before = text.word(place - 1)
        if before in _ORDINALS or (before == "-" and text.word(place - 2) in _ORDINALS):
            first = next((letter for number, letter in objects), None)
            yield _Statement(place, subject if first is None else first, first is not None)
        else:
            follows = next((letter for number, letter in objects if _comes_after(text, number)), None)
            if is_superlative and is_near and follows is not None:  # "B is the closest after A"
                yield _Statement(place, follows, True)
                continue
            letters = () if is_superlative else tuple(letter for _, letter in objects)
            yield _Statement(place, subject, is_near, letters)


def _classify(text: AnswerTokens, place: int) -> tuple[bool, bool] | None:
    """Whether a word says near (or far), and whether as a superlative; None for other words."""
    if text.tokens[place].kind in ("letter", "number"):
        return None
    word, following = text.word(place), (text.word(place + 1), text.word(place + 2))
    if word in _NEAREST or word in _FARTHEST:
        return word in _NEAREST, True
    if word in _NEARER or word in _FARTHER:
        needs_letter = word == "behind"
        return None if needs_letter and not _find_objects(text, place) else (word in _NEARER, False)
    if word in _BETTER or (word in _ACCURATE and text.word(place - 1) in ("more", "most", "less")):
        return text.word(place - 1) != "less", word == "best" or text.word(place - 1) == "most"
    if word == "in" and text.word(place + 1) == "front" and text.word(place + 2) == "of":
        return (True, False) if _find_objects(text, place + 2) else None
    is_verb_before = text.word(place - 1) in _IS or text.word(place - 1) in ("one", "point")
    if (
        word == "in"
        and is_verb_before
        and following[0] in ("front", "the")
        and "foreground" in (following[1], "foreground" if following[0] == "front" else "")
    ):
        return True, True
    return None


def _is_of_something_else(text: AnswerTokens, place: int) -> bool:
    """Whether near or far is denied, or said of other things than the camera: "closer to the people"."""
    for number in range(place - 1, max(place - 5, -1), -1):
        word = text.word(number)
        if word in _DENIALS or word.endswith("n't"):
            return True
        if word == "which" and text.word(number + 1) in ("one", "point", "box", "bounding", "object", "of"):
            return True
        if text.tokens[number].kind == "letter" or word in _BREAKS or word == ",":
            break
    preposition = place + 1 + (text.word(place + 1) in ("away", "off"))
    if text.word(preposition) not in ("to", "from"):
        return False
    number = preposition + 1
    while text.word(number) in ("the", "our", "my", "a", "being", "point"):
        number += 1
    return not (
        text.word(number) in _VIEWERS
        or _is_comparison(text.word(number))
        or number >= len(text.tokens)
        or text.tokens[number].kind == "letter"
    )


def _comes_after(text: AnswerTokens, place: int) -> bool:
    return "after" in (text.word(place - 1), text.word(place - 2))


def _ends_ranking(text: AnswerTokens, place: int) -> bool:
    """Whether a superlative is the second of "from closest to farthest"."""
    before = place - 1 - (text.word(place - 1) == "the")
    return text.word(before) == "to" and _is_comparison(text.word(before - 1))


def _find_objects(text: AnswerTokens, place: int) -> tuple[tuple[int, str], ...]:
    """The letters after "than", "compared to", "in front of" or "behind" in the same phrase, with their places."""
    found: list[tuple[int, str]] = []
    is_compared, limit = text.word(place) in ("behind", "of"), place + (5 if text.word(place) == "behind" else 16)
    number, start = place + 1, text.sentence_of(place)
    while number < min(limit, len(text.tokens)) and text.sentence_of(number) == start:
        token = text.tokens[number]
        if token.text in ("than", "compared", "relative", "after", "behind"):
            is_compared = True
        elif token.kind == "letter":
            follows = text.word(number + 1 + (text.word(number + 1) == ")"))
            if not is_compared or (found and follows in _IS):  # "closer than B, and C is ..."
                break
            found.append((number, token.value))
        elif (
            (is_compared and (token.text in _IS or token.text == ",") and not found)
            or (found and token.text not in _BETWEEN_OBJECTS)
            or _is_comparison(token.text)
        ):
            break
        number += 1
    return tuple(found)


def _is_comparison(word: str) -> bool:
    return word in _NEAREST or word in _NEARER or word in _FARTHEST or word in ("farther", "further")


def _find_subject(text: AnswerTokens, place: int, used: set[int]) -> str | None:
    """The last letter before a word in its sentence that is not the object of another comparison.

    Returns:
        None where there is none, where a pronoun stands between, or where two letters are named together.
    """
    start = text.sentence_of(place)
    for number in range(place - 1, max(start, place - 60) - 1, -1):
        token = text.tokens[number]
        if token.text in _PRONOUNS and text.word(number - 1) not in ("so", "and"):
            return None
        follows = text.word(number + 1 + (text.word(number + 1) == ")"))
        if token.kind == "letter" and (number not in used or follows in _RELATIVES):
            alternative = text.find_alternative(number) or _ends_list(text, number)
            return None if alternative or (_is_object(text, number) and follows not in _RELATIVES) else token.value
    return None


def _is_object(text: AnswerTokens, place: int) -> bool:
    """Whether a letter is what others are compared with: "compared to A", "unlike A"."""
    for number in range(place - 1, max(place - 5, -1), -1):
        if text.word(number) in ("than", "compared", "unlike", "comparison"):
            return True
        if text.tokens[number].kind == "letter" or text.word(number) == ",":
            return False
    return False


def _ends_list(text: AnswerTokens, place: int) -> bool:
    """Whether a letter ends a list: "A and B are closest"."""
    before = place - 1
    while text.word(before) in ("point", "points", "(", "box", "option"):
        before -= 1
    if text.word(before) not in ("and", "or") or before < 1:
        return False
    last = before - 1 - (text.word(before - 1) == ")")
    return last >= 0 and text.tokens[last].kind == "letter"


def _names_later(text: AnswerTokens, place: int) -> bool:
    """Whether "is" or ":" follows a word, so that what it says is named after it: "closest: A"."""
    number = place + 1
    while text.word(number) in _VIEWERS or text.word(number) in (
        "to",
        "the",
        "point",
        "one",
        "object",
        "would",
        "must",
    ):
        number += 1
    return text.word(number) in (":", "=", "->", "→", "is", "be")


def _find_later_subject(text: AnswerTokens, place: int) -> str | None:
    """The letter that is named as what a word before it says: "the closest is B", "closest: A", "nearest to A"."""
    start, has_link = text.sentence_of(place), False
    for number in range(place + 1, min(place + 24, len(text.tokens))):
        token = text.tokens[number]
        if text.sentence_of(number) != start:
            return None
        if token.kind == "letter":
            is_named = has_link or "to" in (text.word(number - 1), text.word(number - 2))
            return token.value if is_named and not text.is_denied(number) else None
        has_link = has_link or token.text in _LINKS
        if _is_comparison(token.text) and text.word(number - 1) != "to":
            return None
    return None
