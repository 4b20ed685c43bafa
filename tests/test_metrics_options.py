"""Options of metrics, as people get them wrong."""

import pytest
import torch
from nets import PooledNet

import camfast
from camfast import metrics

X = torch.rand(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("deletion", {"deletion": {"stps": 3}}, r"options\['deletion'\] has 'stps', .*; did you mean steps\?"),
        ("drop", {"drop": {"bases": 1}}, r"options\['drop'\] has 'bases', .*; known: relative"),
        ("complexity", {"complexity": {"n": 1}}, r"options\['complexity'\] has 'n', .*; it has none"),
        ("pointing", {"pointing": {"box": []}}, r"options\['pointing'\] has 'box', .*; did you mean boxes\?"),
        ("deletion", {"deletion": 3}, r"options=\{'deletion': 3\}; expected options by metric"),
        ("deletion", ["deletion"], r"options=\['deletion'\]; expected options by metric"),
    ],
)
def test_of_evaluate(metric, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(camfast.GradCAM(PooledNet()), X, metric, options=options)


@pytest.mark.parametrize("size", [5, (5,), (5, 5, 5), (0, 5), (5.0, 5), "layer"])
def test_a_size_that_is_none(size):
    with pytest.raises(
        ValueError, match=r"size=.*; expected \(height, width\), two whole numbers of at least 1, or None"
    ):
        metrics.pointing_game(torch.rand(1, 8, 8), boxes=[[0, 0, 3, 3]], size=size)
