"""Outputs of models, with the answers that a person would read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, strategies as st

from perceptok.decoding import read_answer
from perceptok.errors import EvaluationError
from tests.decoding.reading.more_answers import (
    HARD_COUNTS,
    HARD_LETTERS,
    MORE_COUNTS,
    MORE_LETTERS,
    NAMED_COUNTS,
    NAMED_LETTERS,
)

BLOCK = "<DEPTH_START>" + "<DEPTH_5>" * 100 + "<DEPTH_END>"
BOXES = (
    "Based on the analysis, here are the bounding boxes for the dogs:\n"
    " Bounding box 1: (<PIXEL_1>,<PIXEL_2>,<PIXEL_30>,<PIXEL_40>)\n"
    " Bounding box 2: (<PIXEL_5>,<PIXEL_6>,<PIXEL_70>,<PIXEL_80>)\n"
)
LONG = "Let me think about where the lamp stands and what the floor tells. " * 90

LETTERS = [
    ("(B)", "B"),
    ("B", "B"),
    ("b", "B"),
    ("(b)", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("**B**", "B"),
    ("**(B)**", "B"),
    ("`B`", "B"),
    ("\n\n  B \n", "B"),
    ("Point B", "B"),
    ("point b", "B"),
    ("Option (C)", "C"),
    ("The closest is B", "B"),
    ("The closest point to the camera is A.", "A"),
    ("The closest point to the camera is point A.", "A"),
    ("The point closest to the camera is labeled C.", "C"),
    ("Point C is the closest to the camera.", "C"),
    ("A is closest.", "A"),
    ("A is the closest to the camera, followed by B and then C.", "A"),
    ("A, because point B is farther", "A"),
    ("A because B is farther away.", "A"),
    ("B is closer than A.", "B"),
    ("C is farther than B. B is closer than A.", "B"),
    ("B is not the closest; the closest is C.", "C"),
    ("Not A. The answer is B.", "B"),
    ("The answer is not A but B.", "B"),
    ("The answer is that point B is closer to the camera.", "B"),
    ("Answer: B", "B"),
    ("ANSWER: (C)", "C"),
    ("Final Answer: **C**", "C"),
    ("The correct answer is option B.", "B"),
    ("<answer>B</answer>", "B"),
    ("<think>A or C? A.</think>\n<answer>(C)</answer>", "C"),
    (r"The answer is $\boxed{B}$", "B"),
    (r"\boxed{\text{A}}", "A"),
    ("First I thought A. The answer is A. Wait, looking again, the answer is C.", "C"),
    ("A is closer than C, but the answer is B", "B"),
    ("I would say B.", "B"),
    ("I'll go with point C", "C"),
    ("My choice: B", "B"),
    ("\uff22", "B"),
    ("\uff08B\uff09", "B"),
    ("答案是B", "B"),
    ("La réponse est B.", "B"),
    ("Die Antwort ist (C).", "C"),
    ("La respuesta es A.", "A"),
    ("Ответ: B", "B"),
    (
        "Point A is located at (x = 73 y = 188),Point B is located at (x = 191 y = 77).The depth map for the image is "
        f"{BLOCK}. Since point B has a higher pixel value on the depth map, "
        "the answer is that point B is closer to the camera.",
        "B",
    ),
    (f"{BLOCK} (A)", "A"),
    (f"The depth map is {BLOCK[:-11]} (A)", "A"),
    (f"The depth map for the image is {BLOCK}. Point A has a higher pixel value.", "A"),
    (LONG + "The answer is B. " + LONG, "B"),
    (LONG + "\n\nC", "C"),
    ("Looking at the image, C.", "C"),
    ("Depth of A: 0.2, B: 0.9.\nAnswer: B", "B"),
    ("A man stands at point B.", "B"),
    ("", None),
    ("   \n ", None),
    (BLOCK, None),
    ("I cannot determine which point is closest.", None),
    ("I'm sorry, but I can't help with that.", None),
    ("The answer is A or B.", None),
    ("A and B are equally close.", None),
    ("The answer is E.", None),
    ("(E)", None),
    ("The chair is closest to the camera.", None),
    ("A man is standing in a room.", None),
    ("Neither A nor B.", None),
    ("A, B, C", None),
]

COUNTS = [
    ("5", "5"),
    ("**5**", "5"),
    ("5.", "5"),
    ("(5)", "5"),
    ("5 dogs", "5"),
    ("05", "5"),
    ("5.0", "5"),
    ("Five", "5"),
    ("twelve", "12"),
    ("Twenty-one", "21"),
    ("a dozen", "12"),
    ("two dozen eggs", "24"),
    ("1,024", "1024"),
    ("zero", "0"),
    ("None", "0"),
    ("There are no dogs in the image.", "0"),
    ("There are no dogs in the image. We conclude there are 0 dogs.", "0"),
    ("There aren't any cats.", "0"),
    ("No cats are visible.", "0"),
    ("There are 5 dogs in the image.", "5"),
    ("There are exactly three chairs.", "3"),
    ("There is one dog.", "1"),
    ("There is only one dog, the one on the left.", "1"),
    ("There is no doubt that there are 4 birds.", "4"),
    ("I can see 7 people.", "7"),
    ("I count 3 on the left and 4 on the right, so the total is 7.", "7"),
    ("3 red ones and 2 blue ones: 3 + 2 = 5", "5"),
    ("2 on the left, 3 on the right, 5 in total.", "5"),
    ("The number of towels in the image is 4.", "4"),
    ("Answer: 6", "6"),
    ("The answer is six.", "6"),
    ("First there are 3. Looking again, there are 4.", "4"),
    ("The answer is 3. Wait, one is hidden. The answer is 4.", "4"),
    (r"\boxed{8}", "8"),
    ("<answer>8</answer>", "8"),
    (BOXES + "Since there are 2 distinct bounding boxes and masks, we conclude there are 2 dogs.", "2"),
    ("Bounding box 1: (12,34,56,78)\nBounding box 2: (1,2,3,4)\nThere are 2 dogs.", "2"),
    ("1. a brown dog\n2. a white dog\n3. a black dog\n\nThere are three dogs.", "3"),
    ("图中有5只狗", "5"),
    ("答案是5", "5"),
    ("有三只狗", "3"),
    ("Es sind fünf Hunde zu sehen.", "5"),
    ("Il y a quatre chiens.", "4"),
    ("about 10", "10"),
    ("3, because one is hidden", "3"),
    (LONG + "The answer is 9. " + LONG, "9"),
    ("The image shows 2 dogs", "2"),
    ("\uff15", "5"),
    ("", None),
    ("between 3 and 4", None),
    ("3-4", None),
    ("3 or 4", None),
    ("three to five", None),
    ("at least 5", None),
    ("There are more than 10 birds.", None),
    ("10+", None),
    ("several", None),
    ("-3", None),
    ("3.5", None),
    ("I'm sorry, I cannot count them.", None),
    ("3 on the left and 2 on the right", None),
    ("Many dogs are playing.", None),
]


def test_the_table_is_long_enough() -> None:
    assert len(LETTERS) + len(COUNTS) >= 80


@pytest.mark.parametrize(("text", "expected"), LETTERS + MORE_LETTERS + HARD_LETTERS + NAMED_LETTERS)
def test_letters(text: str, expected: str | None) -> None:
    reading = read_answer(text, choices=("A", "B", "C"))
    assert reading.value == expected, reading.reason


@pytest.mark.parametrize(("text", "expected"), COUNTS + MORE_COUNTS + HARD_COUNTS + NAMED_COUNTS)
def test_counts(text: str, expected: str | None) -> None:
    reading = read_answer(text)
    assert reading.value == expected, reading.reason


@pytest.mark.parametrize(
    ("text", "choices", "reason"),
    [
        ("The answer is E.", ("A", "B"), "E is not among the choices A, B"),
        ("7", ("1", "2"), "7 is not among the choices 1, 2"),
        ("I'm sorry, I cannot see that.", ("A", "B"), "a refusal"),
        (BLOCK, ("A", "B"), "nothing was written"),
        ("A or B", ("A", "B"), "two answers: A and B"),
        ("between 3 and 4", (), "not one number"),
        ("some dogs", (), "no candidate"),
    ],
)
def test_reasons(text: str, choices: tuple[str, ...], reason: str) -> None:
    assert reason in read_answer(text, choices).reason


def test_choices_are_returned_unchanged() -> None:
    assert read_answer("(B)", choices=("a", "b")).value == "b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(B)", "B"),
        ("table", "B"),
        ("The dining table is closer.", "C"),
        ("The chair is closer.", "A"),
        ("chair or table", None),
    ],
)
def test_words_of_the_choices(text: str, expected: str | None) -> None:
    assert read_answer(text, {"A": "chair", "B": "table", "C": "dining table"}).value == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B is farther than A", "A"),
        ("Point B is further back.", "A"),
        ("B is closer than A", "B"),
        ("A and B are at the same distance.", None),
    ],
)
def test_of_two_choices_the_one_that_is_not_farther_is_left(text: str, expected: str | None) -> None:
    assert read_answer(text, ("A", "B")).value == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C", "C"),
        ("(B) 3", "B"),
        ("There are two floats. The correct answer is (D) 2.", "D"),
        ("There are two floats.", "D"),
        ("zero", "A"),
        ("There are 7 floats.", None),
        ("(A) 0, (B) 3, (C) 1 or (D) 2", None),
    ],
)
def test_choices_that_are_counts(text: str, expected: str | None) -> None:
    reading = read_answer(text, {"A": "0", "B": "3", "C": "1", "D": "2"})
    assert reading.value == expected, reading.reason


@pytest.mark.parametrize(
    ("text", "expected"), [("Yes", "A"), ("No, it is not.", "B"), ("There is no bed.", None), ("The answer is no", "B")]
)
def test_yes_and_no_are_read_only_where_they_answer(text: str, expected: str | None) -> None:
    assert read_answer(text, {"A": "yes", "B": "no"}).value == expected


BEFORE = (
    "",
    "<s> ",
    "Point A is on the lamp. There are 7 lamps. ",
    "<think>The answer is C, or 9.</think>",
    "At first I thought the answer was C, or 9.\n",
    "ASSISTANT: ",
)
AFTER = ("", "</s>", "<|im_end|>", "\n", "\nUSER: and the farthest?")
DECLARATIONS = (
    "The answer is {}.",
    "Therefore, the correct answer is:\n\n({})",
    "**Final answer:** {}",
    "Answer: {}",
    "\\boxed{{{}}}",
    "<answer>{}</answer>",
    "So the answer must be {}",
    "\n{}",
)


@given(
    st.sampled_from(BEFORE),
    st.sampled_from(DECLARATIONS),
    st.sampled_from(AFTER),
    st.sampled_from("ABC"),
    st.integers(0, 300),
)
def test_declarations_are_read_whatever_stands_around(
    before: str, declaration: str, after: str, letter: str, count: int
) -> None:
    assert read_answer(before + declaration.format(letter) + after, "ABC").value == letter
    assert read_answer(before + declaration.format(count) + after).value == str(count)


@given(st.permutations("ABC"), st.sampled_from(["closer", "nearer"]), st.booleans(), st.booleans())
def test_chains_are_read_as_an_order(order: list[str], nearer: str, is_reversed: bool, is_far: bool) -> None:
    pairs = [(order[0], order[1]), (order[1], order[2])]
    clauses = [f"{far} is farther than {near}" if is_far else f"{near} is {nearer} than {far}" for near, far in pairs]
    text = ", and ".join(reversed(clauses) if is_reversed else clauses)
    assert read_answer(f"{text}.", "ABC").value == order[0]


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4), st.sampled_from(["a total of {}", "{} in total", "Total: {}"])
)
def test_totals_are_read_before_their_parts(parts: list[int], form: str) -> None:
    listed = " and ".join(f"{part} in row" for part in parts)
    assert read_answer(f"{form.format(sum(parts))}: {listed}").value == str(sum(parts))
    assert read_answer(f"{listed}, {form.format(sum(parts))}.").value == str(sum(parts))


@pytest.mark.parametrize("choices", [("A", "A"), ("A", "a"), ("A", "2"), ("north", "south"), ("",)])
def test_bad_choices_are_refused(choices: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError):
        read_answer("x", choices)


@pytest.mark.parametrize("choices", [(), ("A", "B", "C")])
@pytest.mark.parametrize("piece", ["there are no but ", "1", "a hundred ", "closest ", "total of a ", "A is ", "so "])
def test_repetitive_text_takes_linear_time(
    piece: str, choices: tuple[str, ...], cpu_seconds: Callable[[Callable[[], object]], float]
) -> None:
    short, long = (cpu_seconds(partial(read_answer, piece * (size // len(piece)), choices)) for size in (5_000, 20_000))
    assert long < 0.1 + 10 * short


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    letter, count = read_answer(text, ("A", "B", "C")), read_answer(text)
    assert letter.value in {None, "A", "B", "C"}
    assert count.value is None or count.value == str(int(count.value))


@given(
    st.sampled_from("ABCDE"),
    st.sampled_from(["({})", "{}", "{}.", "The answer is {}.", "Point {} is closest.", "**{}**"]),
)
def test_all_letters_are_read_equally(letter: str, form: str) -> None:
    assert read_answer(form.format(letter), "ABCDE").value == letter


@given(st.integers(0, 10**6), st.sampled_from(["{}", "{}.", "There are {} dogs.", "The answer is {}", "I count {:,}"]))
def test_every_count_is_read(count: int, form: str) -> None:
    assert read_answer(form.format(count)).value == str(count)


@pytest.mark.parametrize(
    "piece", ["A ", "the answer is ", "closest ", "1 ", "one ", "<DEPTH_1>", "(", "1,", "there are ", "$", "$1", "$ "]
)
@pytest.mark.parametrize("choices", [("A", "B"), ()])
def test_long_outputs_take_linear_time(
    piece: str, choices: tuple[str, ...], cpu_seconds: Callable[[Callable[[], object]], float]
) -> None:
    short, long = (
        cpu_seconds(partial(read_answer, piece * (size // len(piece)), choices)) for size in (10_000, 40_000)
    )
    assert long < 0.1 + 10 * short


@pytest.mark.parametrize("choices", [(), ("A", "B")])
@pytest.mark.parametrize(
    "unit", ["\n", " ", "<answer>", "</think>", "The answer is:\n", "A is ", "(", "5, ", "hundred "]
)
def test_reading_takes_time_in_proportion_to_the_text(
    unit: str, choices: tuple[str, ...], cpu_seconds: Callable[[Callable[[], object]], float]
) -> None:
    text = "The answer is:" + unit * (8_000 // len(unit))
    short, long = (cpu_seconds(partial(read_answer, text * times, choices)) for times in (1, 8))
    assert long < 24 * short + 0.02
