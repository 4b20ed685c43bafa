"""Text in any script: a font that has it, or escapes, never boxes."""

import io
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from camfast import fonts
from camfast.video.artist import _text

DEJAVU = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
COMPUTER_MODERN = f"{matplotlib.get_data_path()}/fonts/ttf/cmr10.ttf"
BUNDLED = [entry for entry in fonts._candidates() if entry.fname.startswith(matplotlib.get_data_path())]


@pytest.fixture(autouse=True)
def bundled(monkeypatch):
    """A machine with the fonts of matplotlib alone, that has said nothing yet."""
    monkeypatch.setattr(fonts, "_candidates", lambda: list(BUNDLED))
    monkeypatch.setattr(fonts, "_unlisted", lambda: ())
    for cache in (fonts._say_once, _text):
        cache.cache_clear()
    yield
    for cache in (fonts._say_once, _text):
        cache.cache_clear()


def title(text, **how):
    """A title, drawn: a character without a glyph would be a warning, and with that an error."""
    figure = Figure()
    artist = fonts.legible(figure.suptitle(text, **how))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    return artist


def test_a_font_that_has_the_characters_stands_behind_the_first():
    artist = title("кошка, 63.1%", fontfamily=["cmr10"], fontsize=9)
    assert artist.get_fontfamily() == ["cmr10", "DejaVu Sans"]
    assert artist.get_text() == "кошка, 63.1%"
    assert artist.get_fontsize() == 9


def test_what_the_first_font_has_needs_no_other():
    artist = title("tabby, кошка, γάτα")
    assert artist.get_fontfamily() == matplotlib.rcParams["font.family"]


def test_a_font_that_matplotlib_does_not_list_yet(monkeypatch):
    monkeypatch.setattr(fonts, "_candidates", list)
    monkeypatch.setattr(fonts, "_unlisted", lambda: (COMPUTER_MODERN, DEJAVU))
    artist = title("кошка", fontfamily=["cmr10"])
    assert artist.get_fontproperties().get_file() == DEJAVU
    assert artist.get_text() == "кошка"


def test_without_such_a_font_there_are_escapes_and_one_warning():
    with pytest.warns(UserWarning, match="camfast writes characters that no installed font has as escapes") as said:
        texts = [fonts.legible(Figure().suptitle(text)).get_text() for text in ("虎, 63.1%", "猫 кошка")]
    assert texts == ["\\u864e, 63.1%", "\\u732b кошка"]
    assert len(said) == 1
    assert title("猫").get_text() == "\\u732b"


def test_fonts_of_boxes_are_no_candidates():
    claims_all = [entry for entry in fontManager.ttflist if entry.name.startswith("Last Resort")]
    for entry in claims_all:  # matplotlib has one since 3.9
        assert fonts.lacking(entry.fname, "猫") == {"猫"}
    assert not {entry.name for entry in claims_all} & {entry.name for entry in BUNDLED}


def test_dollars_are_no_formulas_and_controls_are_not_drawn():
    assert title("US$ 5 \\frac$").get_text() == "US$ 5 \\frac$"
    assert title("tab\tby\x07\u2066\nsecond line").get_text() == "tab by\nsecond line"


def test_files_that_are_no_fonts_have_nothing(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    assert fonts.lacking(str(broken), "ab") == {"a", "b"}
    assert fonts.lacking(str(tmp_path / "gone.ttf"), "a") == {"a"}
    assert fonts.lacking(DEJAVU, "aж猫\n") == {"猫"}


def test_one_file_for_a_whole_text():
    assert fonts.lacking(fonts.file_for("кошка 1"), "кошка 1") == set()
    assert fonts.file_for("ab") == fonts.file_for("кошка")  # the font of all figures


def test_the_fonts_that_matplotlib_knows_stay():
    listed = list(fontManager.ttflist)
    title("кошка", fontfamily=["cmr10"])
    assert fontManager.ttflist == listed


def test_labels_on_video_frames():
    drawn = _text(("кошка, 9%",), 20, 100, 300)
    assert drawn.max() == 255
    others = _text(("\u0448\u0448\u0448\u0448\u0448, 9%",), 20, 100, 300)
    assert drawn.shape != others.shape or np.abs(drawn.astype(int) - others).max() > 100  # boxes would be all the same
    with pytest.warns(UserWarning, match="as escapes"):
        escaped = _text(("猫 é",), 20, 100, 300)
    assert np.array_equal(escaped, _text(("\\u732b é",), 20, 100, 300))
