"""README.zh-CN.md says what README.md says: the same code, tables and headings, in the same order."""

import re

import pytest
from conftest import ROOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


@pytest.fixture(scope="module")
def both():
    return ENGLISH.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8")


def code_blocks(text):
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def headings(text):
    """The level of every heading; a comment in code is none."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def generated(text):
    """What benchmarks/tables.py writes, by the name of its JSON."""
    return re.findall(r"^<!-- (\S+\.json(?: \w+)?) -->\n(.*?)^<!-- end -->$", text, re.DOTALL | re.MULTILINE)


def test_code_is_the_same_to_the_letter(both):
    english, chinese = map(code_blocks, both)
    assert len(english) >= 8
    for number, (ours, theirs) in enumerate(zip(english, chinese, strict=False), start=1):
        assert theirs == ours, f"code block {number} of {CHINESE.name} is not that of {ENGLISH.name}"
    assert len(chinese) == len(english)


def test_headings_are_as_many_and_of_the_same_levels(both):
    assert headings(both[1]) == headings(both[0])


def test_generated_tables_are_the_same(both):
    english, chinese = map(generated, both)
    assert len(english) >= 1
    assert chinese == english


def test_pictures_and_links_to_files_are_there(both):
    found = set(re.findall(r"\]\(([^)#:]+)\)", both[1]))
    assert found >= set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", both[0]))
    assert all((ROOT / name).exists() for name in found), found


def test_it_is_in_chinese(both):
    ideographs = re.findall(r"[\u4e00-\u9fff]", both[1])
    assert len(ideographs) > 1500
