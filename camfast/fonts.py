"""Text in any script: fonts that have its characters are found among the installed ones; else it is spelled out."""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib.font_manager import FontEntry, FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

_BLANK = ("Last Resort", "Adobe Blank", "Adobe NotDef")
"""How families begin that claim every character, and draw boxes."""


def legible(artist: Text) -> Text:
    """A text of a figure, in fonts that have its characters.

    Where no installed font has some, they are written as escapes (``\\u732b``), never as boxes, and a warning says so
    once. Dollar signs are dollar signs, not formulas. What matplotlib has set for all figures is not touched.
    """
    text = artist.get_text().expandtabs(1)
    artist.set_parse_math(False)
    missing = lacking(findfont(artist.get_fontproperties()), text)
    families, missing = _families(missing)
    if families:
        artist.set_fontfamily([*artist.get_fontfamily(), *families])
    if missing and _unlisted():
        path = min(_unlisted(), key=lambda path: len(lacking(path, text)))
        if len(lacking(path, text)) < len(missing):  # one font alone, as matplotlib knows these not by family
            font = artist.get_fontproperties().copy()
            font.set_file(path)
            artist.set_fontproperties(font)
            missing = lacking(path, text)
    artist.set_text(escaped(text, missing))
    return artist


def file_for(text: str) -> str:
    """The file of the installed font that has the most of a text's characters, all where one has."""
    needed = frozenset(text)

    def lacks(path: str) -> int:
        return len(lacking(path, needed))

    best = min((str(findfont(FontProperties())), *(entry.fname for entry in _candidates())), key=lacks)
    return min((best, *_unlisted()), key=lacks) if lacks(best) else best


def lacking(path: str, text: Iterable[str]) -> frozenset[str]:
    """The characters that the font of a file does not have; all of them where it cannot be used."""
    return _lacking(str(path), frozenset(text) - {"\n"})


def escaped(text: str, characters: Iterable[str]) -> str:
    """With some characters as escapes of Python, and without those among them that are not seen; says so once."""
    unseen = {mark for mark in characters if unicodedata.category(mark) in ("Cc", "Cf")}
    spelled = set(characters) - unseen
    if spelled:
        _say_once()
    written: dict[str, str | int | None] = {}
    written |= {mark: mark.encode("unicode_escape").decode() for mark in spelled} | dict.fromkeys(unseen, "")
    return text.translate(str.maketrans(written))


def _families(missing: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Families that matplotlib knows and that have some of the characters, and what none of them has."""
    families: list[str] = []
    candidates = _candidates() if missing else []
    while missing and candidates:
        best = min(candidates, key=lambda entry: len(lacking(entry.fname, missing)))
        if lacking(best.fname, missing) == missing:
            break
        candidates.remove(best)
        # What matplotlib takes for the family may be another file of it.
        left = lacking(findfont(FontProperties(family=[best.name])), missing)
        if left != missing:
            families.append(best.name)
            missing = left
    return families, missing


def _candidates() -> list[FontEntry]:
    """Fonts that matplotlib knows, the plainest first."""

    def plainness(entry: FontEntry) -> tuple[bool, int, bool, bool, str, str]:
        weight = abs(int(entry.weight) - 400) if str(entry.weight).isdecimal() else 0
        return entry.style != "normal", weight, "Mono" in entry.name, "Sans" not in entry.name, entry.name, entry.fname

    return sorted((entry for entry in fontManager.ttflist if not entry.name.startswith(_BLANK)), key=plainness)


@functools.cache
def _unlisted() -> tuple[str, ...]:
    """Fonts installed since matplotlib made the list that it keeps of them."""
    listed = {str(Path(entry.fname)) for entry in fontManager.ttflist}
    found = [path for path in map(str, findSystemFonts()) if path not in listed]
    return tuple(sorted(found, key=lambda path: ("Regular" not in path, "Sans" not in path, path)))


@functools.lru_cache(maxsize=4096)
def _lacking(path: str, characters: frozenset[str]) -> frozenset[str]:
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # gone, or of a kind that matplotlib cannot draw
        return characters
    if not font.scalable or font.family_name.startswith(_BLANK):
        return characters
    return frozenset(mark for mark in characters if font.get_char_index(ord(mark)) == 0)


@functools.cache
def _say_once() -> None:
    warnings.warn(
        "camfast writes characters that no installed font has as escapes in pictures; a font such as Noto has them "
        "(Debian: apt install fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto for others)",
        UserWarning,
        stacklevel=2,
    )
