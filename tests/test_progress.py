"""Progress of long work, where there is no terminal."""

import re

from camfast.progress import Progress


def test_plain_lines_now_and_then(capsys):
    with Progress("in.mp4", total=20, unit="frames", every=0.0) as progress:
        progress.advance(5, lambda: "read 10%, model 90%")
        progress.advance(15)
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"in.mp4: 5 of 20 frames; \d+\.\d frames/s; \d+ s left; read 10%, model 90%", first)
    assert re.fullmatch(r"in.mp4: 20 of 20 frames; \d+\.\d frames/s; 0 s left", second)


def test_without_a_total(capsys):
    with Progress("camera 0", total=None, unit="frames", every=0.0) as progress:
        progress.advance(5)
    assert re.fullmatch(r"camera 0: 5 frames; \d+\.\d frames/s\n", capsys.readouterr().err)


def test_quiet_and_not_yet(capsys):
    with Progress("in.mp4", total=20, unit="frames", every=0.0, quiet=True) as progress:
        progress.advance(5)
    with Progress("in.mp4", total=20, unit="frames", every=60.0) as progress:
        progress.advance(5)
    assert capsys.readouterr().err == ""
