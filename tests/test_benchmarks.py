"""Benchmarks run, and README and docs say what they found."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from camfast.images import read_image
from camfast.optimize import integers

# Run with benchmarks/ on the path, where its files find each other.
DRAW = """
import json, pathlib, sys
sys.path.insert(0, "benchmarks")
from engine_chart import draw
draw(json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]))
"""


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_pages_have_the_committed_figures():
    done = python("benchmarks/tables.py", "--check")
    assert done.returncode == 0, done.stderr
    operator = json.loads((ROOT / "benchmarks/results/op-cpu.json").read_text())["cases"][0]
    median = operator["milliseconds"]["camfast"]["median"]
    assert f"{median:.3f} ms" in (ROOT / "docs/benchmarks.md").read_text()
    video = json.loads((ROOT / "benchmarks/results/video-cpu.json").read_text())["cases"][0]
    rates = video["frames_per_second"]
    row = f"| {video['model']}, {video['clip']} | int8 | {rates['int8'] / rates['grad-cam']:.1f}× |"
    assert row in (ROOT / "README.md").read_text()


def test_the_operator_benchmark_runs(tmp_path):
    done = python("benchmarks/bench_op.py", "--quick", "--seconds", "0.001", "--json", str(tmp_path / "op.json"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "op.json").read_text())
    assert [case["work"] for case in results["cases"]] == ["cam"] * 4 + ["overlay"] * 3
    for case in results["cases"]:
        assert {"camfast", "reference", "copy"} <= set(case["milliseconds"])
        assert all(summary["median"] > 0 for summary in case["milliseconds"].values())
    assert "[8, 512, 7, 7] → 224×224" in done.stdout
    assert results["machine"]["torch"]


def test_the_engine_benchmark_runs(tmp_path):
    done = python(
        "benchmarks/bench_engine.py", "--quick", "--seconds", "0.001", "--json", str(tmp_path / "engine.json")
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "engine.json").read_text())
    (case,) = results["cases"]
    timed = {"plain", "default", "inference", "inference bf16", "int8", "grad-cam", "torchcam", "captum"}
    assert set(case["milliseconds"]) == timed
    assert all(summary["median"] > 0 for summary in case["milliseconds"].values())
    assert case["difference_from_default"]["grad-cam"] < 1e-3
    assert "gradient" in case["plans"]["default"]
    assert set(case["peak_bytes"]) == set(case["first_seconds"]) == timed
    assert case["peak_bytes"]["default"] > 64 * 112 * 112 * 4  # at least the largest map of the model
    assert all(seconds > 0 for seconds in case["first_seconds"].values())
    assert set(results["several_classes"]["milliseconds"]) == {"plain", "one", "several"}
    assert set(results["fidelity"]["modes"]) == {"inference", "inference bf16", "int8"}
    exact = results["fidelity"]["modes"]["inference"]
    assert exact["max_difference"] < 1e-3
    assert exact["top_tenth_least"] > 0.99
    assert exact["same_class"] == 1

    assert "| resnet18, 1 |" in done.stdout
    assert f"{case['milliseconds']['plain']['median']:.1f} ms" in done.stdout
    assert "| inference, bf16 |" in done.stdout
    picture = tmp_path / "engine.png"
    drawn = python("-c", DRAW, str(tmp_path / "engine.json"), str(picture))
    assert drawn.returncode == 0, drawn.stderr
    assert read_image(picture).std() > 0


def test_the_video_benchmark_runs(tmp_path):
    done = python("benchmarks/bench_video.py", "--quick", "--json", str(tmp_path / "video.json"))
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "video.json").read_text())["cases"]
    run = {
        "decode",
        "encode",
        "transcode",
        "model exact",
        "model int8",
        "default",
        "exact",
        "int8",
        "grad-cam",
        "torchcam",
    }
    assert set(case["frames_per_second"]) == set(case["cpu_seconds_per_frame"]) == set(case["peak_bytes"]) == run
    assert case["frames"] == 24
    assert all(rate > 0 for rate in case["frames_per_second"].values())
    assert "| efficientnet_lite0, small | exact |" in done.stdout
    assert f"{case['frames_per_second']['grad-cam']:.1f} |" in done.stdout


@pytest.mark.skipif(not integers.available(), reason="this processor does not multiply 8-bit integers")
def test_the_benchmark_of_precisions_runs(tmp_path):
    done = python(
        "benchmarks/bench_precision.py", "--quick", "--seconds", "0.001", "--json", str(tmp_path / "precision.json")
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "precision.json").read_text())
    (case,) = results["cases"]
    assert set(case["milliseconds"]) == {"float32", "bf16", "int8"}
    assert "convolutions in 8-bit integers" in case["plans"]["int8"]
    modes = results["fidelity"]["modes"]
    assert list(modes) == ["bf16", "int8", "int8, after black", "int8, after noise"]
    assert all(found["correlation_mean"] > 0.97 and not found["notes"] for found in modes.values())
    assert "| mobilenet_v2 |" in done.stdout
    assert f"{modes['int8']['same_class']:.1%} |" in done.stdout


def test_the_deployment_benchmark_runs(tmp_path, runner):
    done = python("benchmarks/bench_deploy.py", "--quick", "--json", str(tmp_path / "deploy.json"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "deploy.json").read_text())
    (case,) = results["cases"]
    assert list(case["contenders"]) == ["eager engine", "TorchScript", "camfast-run, TorchScript"]
    for found in case["contenders"].values():
        assert found["milliseconds"]["1"]["median"] > 0
        assert found["start_seconds"] > 0
        assert found["peak_bytes"] > 10e6
    assert case["contenders"]["camfast-run, TorchScript"]["file_bytes"] > 10e6
    assert set(results["photo_seconds"]) == {"camfast image", "camfast-run"}
    assert "| resnet18 | camfast-run, TorchScript |" in done.stdout
