"""What can be counted on the surface of a query.

Length, digits, letters of other alphabets, signs of formulas and of programs, options.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

QUESTION_WORD = re.compile(r"\W*(?:what|which|who|when|where|why|how|if)\b", re.IGNORECASE)
OPTION = re.compile(r"^\s*\(?[A-J][.):：、]", re.MULTILINE)  # "A. ...", "(B) ..." at the beginning of a line
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CODE = re.compile(r"[{}\[\]();=_<>]|\bdef\b|\breturn\b|\bassert\b|\bfor\b|\bimport\b")
FORMULA = re.compile(r"[$\\^]|[+*/=<>≤≥×÷]")
NEGATION = re.compile(r"\b(?:not|except|never|false|incorrect|least)\b|不|除", re.IGNORECASE)
COMPARISON = re.compile(r"\b(?:more|less|fewer|than|most|twice|half|percent|each|per|total|average)\b|%", re.IGNORECASE)


def _share(count: int, text: str) -> float:
    return count / max(1, len(text))


def _log(count: float) -> float:
    return float(np.log1p(count))


def _count(pattern: str | re.Pattern[str], text: str) -> int:
    return len(re.findall(pattern, text))


def _letters_outside_ascii(text: str) -> int:
    return sum(letter.isalpha() and not letter.isascii() for letter in text)


FEATURES: dict[str, Callable[[str], float]] = {
    "characters (log)": lambda text: _log(len(text)),
    "words (log)": lambda text: _log(len(text.split())),
    "characters of a word": lambda text: len(text) / max(1, len(text.split())),
    "lines (log)": lambda text: _log(text.count("\n")),
    "sentences (log)": lambda text: _log(_count(r"[.!?。！？]", text)),
    "digits (share)": lambda text: _share(sum(map(str.isdigit, text)), text),
    "numbers (log)": lambda text: _log(_count(NUMBER, text)),
    "longest number (characters)": lambda text: float(max(map(len, NUMBER.findall(text)), default=0)),
    "fractions and decimals (log)": lambda text: _log(_count(r"\d[./]\d|\\frac", text)),
    "letters outside ASCII (share)": lambda text: _share(_letters_outside_ascii(text), text),
    "capital letters (share)": lambda text: _share(sum(map(str.isupper, text)), text),
    "question marks": lambda text: float(min(5, text.count("?") + text.count("？"))),
    "commas (log)": lambda text: _log(text.count(",") + text.count("，")),
    "quotation marks (log)": lambda text: _log(_count(r"[\"'“”‘’]", text)),
    "signs of formulas (log)": lambda text: _log(_count(FORMULA, text)),
    "LaTeX commands (log)": lambda text: _log(_count(r"\\[a-zA-Z]+", text)),
    "drawings": lambda text: float("[asy]" in text),
    "signs of code (log)": lambda text: _log(_count(CODE, text)),
    "options": lambda text: float(_count(OPTION, text)),
    "gaps to fill": lambda text: float("__" in text),
    "negations (log)": lambda text: _log(_count(NEGATION, text)),
    "comparisons (log)": lambda text: _log(_count(COMPARISON, text)),
    "money": lambda text: float(bool(re.search(r"[$€£¥]\s?\d|\bdollars?\b|\bcents?\b", text))),
    "begins with a question word": lambda text: float(bool(QUESTION_WORD.match(text))),
}


def surface(questions: Sequence[str]) -> np.ndarray:
    """The values of FEATURES for each question, (N, number of features) float64."""
    columns = [[count(question) for question in questions] for count in FEATURES.values()]
    return np.array(columns, dtype=np.float64).T
