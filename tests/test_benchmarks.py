"""Benchmarks run, and README says what they found."""

import json
import subprocess
import sys

from conftest import ROOT


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_readme_has_the_committed_figures():
    done = python("benchmarks/tables.py", "--check")
    assert done.returncode == 0, done.stderr
    results = json.loads((ROOT / "benchmarks/results/op-cpu.json").read_text())
    case = results["cases"][0]
    assert f"{case['milliseconds']['camfast']['median']:.3f} ms" in (ROOT / "README.md").read_text()


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
