"""The examples run, and print what they are there to show."""

import os
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT
from test_examples_pictures import EXAMPLES as PICTURES

import camfast

EXAMPLES = [
    (
        "hooks_tour.py",
        [],
        [
            "  conv1  Conv2d  [4, 3, 16, 16] -> [4, 8, 16, 16]",
            "heard while predict() ran: ['conv1', 'conv2']",
            "by a plain hook that keeps the output: 0.0000",
            "layer  type    shape",
            "dy/dx by that hook: 2; by capture(): 6",
            "is row 0 of the linear layer's weights: True",
            "that lets nothing past:   0.0000",
            "after the blocks, as before:                        True",
            "returned [4, 1, 16, 16] torch.float32 on cpu; expected [4, 16, 16, 16] torch.float32 on cpu",
            "samples have another class",
            "vanishing in 5 steps",
            "hooks in the block:                  5",
            "after an error in the model:         0",
            "after a generator that was dropped:  0",
        ],
    ),
]
"""Name, arguments, and what the output must have in it. ``{tmp}`` in an argument is a folder of the test."""


@pytest.mark.parametrize(("name", "arguments", "shown"), EXAMPLES, ids=[example[0] for example in EXAMPLES])
def test_an_example_runs(name, arguments, shown, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *(part.format(tmp=tmp_path) for part in arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for text in shown:
        assert text in done.stdout


def test_every_example_is_run_here():
    run = {name for name, *_ in EXAMPLES} | {f"{name}.py" for name in PICTURES}
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == run


def test_the_hooks_of_the_readme(capsys):
    section = (ROOT / "README.md").read_text().split("\n## Hooks\n")[1].split("\n## ")[0]
    code = section.split("```python\n")[1].split("```")[0]
    names = {"camfast": camfast, "torch": torch, "x": torch.randn(2, 3, 64, 64)}
    names["model"] = torchvision.models.resnet18().eval()
    exec(code, names)
    names["predict"](names["x"])
    shown = capsys.readouterr().out
    assert "layer4  Sequential  [2, 512, 2, 2]" in shown
    assert "another class" in shown
    assert "gradient norms of 41 layers over 3 steps" in shown
    assert "layer1.0.conv1 torch.Size([2, 64, 16, 16])" in shown
    assert names["found"].gradient.shape == names["x"].shape
    assert not any(module._forward_hooks for module in names["model"].modules())
