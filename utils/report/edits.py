"""Edits of a query that change nothing in what it asks: a router should not mind them. Each is a pure function."""

import random
import re
from collections.abc import Callable

TYPING_ERRORS = 0.1  # share of the words that get one
WORD = re.compile(r"[A-Za-z]{4,}")
ANSWER = re.compile(r"\s*(答案：|Answer:)?\s*$")  # what may follow the options
OPTION = re.compile(r"^([A-Z])([.、．:)] ?)(.*)$")


def lower(text: str) -> str:
    """All letters small."""
    return text.lower()


def upper(text: str) -> str:
    """All letters capital."""
    return text.upper()


def double_spaces(text: str) -> str:
    """Every space twice."""
    return text.replace(" ", "  ")


def typing_errors(text: str, seed: int = 0) -> str:
    """Two neighbouring letters inside a word change places, in TYPING_ERRORS of the words of four or more letters.

    Letters are Latin ones. Which words it is depends on the text and the seed alone.
    """
    rng = random.Random(f"{seed} {text}")

    def mistype(match: re.Match) -> str:
        word = match.group()
        place = rng.randrange(1, len(word) - 2)
        if rng.random() >= TYPING_ERRORS:
            return word
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return WORD.sub(mistype, text)


def reverse_options(text: str) -> str:
    """The options of a multiple choice question, lines that begin with A., B. and so on, in the opposite order.

    The letters stay where they are, and so does a request for the answer at the end. A text without two such lines in a
    row is left as it is.
    """
    end = ANSWER.search(text).start()
    lines = text[:end].split("\n")
    found = [OPTION.match(line) for line in lines]
    for first in range(len(lines) - 1):
        count = 0
        while first + count < len(lines) and _is_option(found[first + count], count):
            count += 1
        if count >= 2:
            contents = [found[first + place].group(3) for place in range(count)]
            for place, content in enumerate(reversed(contents)):
                letter, stop, _ = found[first + place].groups()
                lines[first + place] = f"{letter}{stop}{content}"
            break
    return "\n".join(lines) + text[end:]


def _is_option(match: re.Match | None, number: int) -> bool:
    return match is not None and match.group(1) == chr(ord("A") + number)


def question_in_front(text: str) -> str:
    """ "Question: " before the text."""
    return f"Question: {text}"


EDITS: dict[str, Callable[[str], str]] = {
    "lower case": lower,
    "upper case": upper,
    "doubled white space": double_spaces,
    "typing errors": typing_errors,
    "options reversed": reverse_options,
    '"Question: " in front': question_in_front,
}
