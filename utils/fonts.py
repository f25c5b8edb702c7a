"""A font for every character of a figure: names may be Chinese, and matplotlib's own font has no such characters."""

import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

DEFAULT = "DejaVu Sans"  # comes with matplotlib
LAST_RESORT = "Last Resort"  # its characters are boxes
PREFERRED = ("Noto Sans CJK", "Noto Sans", "Source Han Sans", "PingFang", "Microsoft YaHei", "SimHei", "WenQuanYi")
INSTALL = "`apt install fonts-noto-cjk`, or any font that has them"


def use_fonts(figure: Figure) -> None:
    """Give the texts of a figure a font that has their characters.

    If no installed font has some of them, they will be boxes: stderr says so, and what to install.
    """
    for axis in figure.axes:  # asking for the tick labels gives them their texts
        axis.get_xticklabels()
        axis.get_yticklabels()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    missing = characters_without_font("".join(text.get_text() for text in texts))
    if not missing:
        return
    families = [DEFAULT, *families_with(missing)]
    for text in texts:
        text.set_fontfamily(families)
    still_missing = missing - set().union(*(characters_of(path) for path in map(path_of, families[1:])))
    if still_missing:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # said below, once
        names = "".join(sorted(still_missing)[:20])
        print(
            f"figure: no installed font has the characters {names}, which are drawn as boxes; "
            f"install one ({INSTALL}) and draw again",
            file=sys.stderr,
        )


def characters_without_font(text: str) -> set[str]:
    """The characters of a text that matplotlib's own font has not."""
    known = characters_of(font_manager.findfont(DEFAULT))
    return {character for character in text if character not in known and not character.isspace()}


def families_with(characters: Iterable[str]) -> list[str]:
    """Installed font families that together have as many of the characters as can be had, the preferred ones first."""
    missing, families = set(characters), []
    for family, path in installed():
        found = missing & characters_of(path)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    return families


def installed() -> list[tuple[str, str]]:
    """Name and file of every installed font but the last resort, the preferred ones first.

    Fonts installed since matplotlib listed them are added to its list.
    """
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (RuntimeError, OSError):  # not a font that matplotlib reads
                continue
    entries = [entry for entry in font_manager.fontManager.ttflist if not entry.name.startswith(LAST_RESORT)]
    ranks = {entry.name: rank_of(entry.name) for entry in entries}
    entries.sort(key=lambda entry: (ranks[entry.name], entry.name, entry.style != "normal", entry.fname))
    return list({entry.name: (entry.name, entry.fname) for entry in reversed(entries)}.values())[::-1]


def rank_of(family: str) -> int:
    """The place of a family among the preferred ones; those that are not come last."""
    places = [place for place, start in enumerate(PREFERRED) if family.startswith(start)]
    return min(places, default=len(PREFERRED))


def path_of(family: str) -> str:
    """The file of an installed family."""
    return dict(installed())[family]


@lru_cache(maxsize=None)
def characters_of(path: str | Path) -> frozenset[str]:
    """The characters that a font file has; none for a file that cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(str(path)).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()
