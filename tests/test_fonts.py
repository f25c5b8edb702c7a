"""utils/fonts.py: Chinese names get a font that has them, or a message. Made-up fonts stand in for installed ones."""

import matplotlib.pyplot as plt
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from utils import fonts, plots


def square() -> object:
    """A glyph."""
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for corner in ((50, 700), (450, 700), (450, 0)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install("Name", "诗人"): a font with these characters that matplotlib knows until the end of the test."""
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))

    def build(family: str, characters: str) -> None:
        glyphs = {f"g{ord(character)}": square() for character in characters}
        names = [".notdef", *glyphs]
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(names)
        builder.setupCharacterMap({ord(character): f"g{ord(character)}" for character in characters})
        builder.setupGlyf({".notdef": square(), **glyphs})
        builder.setupHorizontalMetrics(dict.fromkeys(names, (500, 50)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
        builder.setupPost()
        path = tmp_path / f"{family}.ttf"
        builder.save(path)
        font_manager.fontManager.addfont(path)

    return build


def figure_of(title: str):
    """A figure with a title."""
    figure, axis = plt.subplots()
    axis.set_title(title)
    return figure


def families_of(figure) -> list[str]:
    """The fonts of the figure's title."""
    return figure.axes[0].title.get_fontfamily()


def test_plain_text_keeps_its_font_and_says_nothing(capsys):
    figure = figure_of("accuracy (%), ± 0.5, λ")
    before = families_of(figure)
    fonts.use_fonts(figure)
    assert families_of(figure) == before and capsys.readouterr().err == ""


def test_an_installed_font_that_has_the_characters_is_taken(install, capsys, tmp_path, recwarn):
    install("Half", "诗")
    install("Whole", "诗人")
    install("Noto Sans CJK Test", "诗人")
    figure = figure_of("tasks: 诗人")
    plots.save(figure, tmp_path / "figure.png")
    assert families_of(figure) == ["DejaVu Sans", "Noto Sans CJK Test"]  # the known one before all others
    assert capsys.readouterr().err == ""
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]
    assert (tmp_path / "figure.pdf").is_file()


def test_fonts_add_up(install, capsys):
    install("First", "诗")
    install("Second", "人")
    figure = figure_of("诗人")
    fonts.use_fonts(figure)
    assert families_of(figure) == ["DejaVu Sans", "First", "Second"] and capsys.readouterr().err == ""


def test_tick_labels_have_the_font_too(install, tmp_path, recwarn):
    install("Whole", "诗人")
    figure, axis = plt.subplots()
    axis.set_yticks([0, 1], ["诗", "人"])
    plots.save(figure, tmp_path / "figure.png")
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_boxes_are_never_silent(install, monkeypatch, capsys, tmp_path):
    known = [entry for entry in font_manager.fontManager.ttflist if entry.name.startswith(("DejaVu", "Last Resort"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    install("Half", "诗")
    plots.save(figure_of("诗人"), tmp_path / "figure.png")
    error = capsys.readouterr().err
    assert "no installed font has the characters 人, which are drawn as boxes" in error
    assert "apt install fonts-noto-cjk" in error and "诗" not in error
    assert (tmp_path / "figure.png").is_file()
