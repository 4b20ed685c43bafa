"""Models with several inputs."""

import pytest
import torch
from nets import PooledNet
from torch import nn

import camfast
from camfast.inputs import check_inputs

X = torch.randn(3, 3, 16, 20, generator=torch.Generator().manual_seed(1))


class TwoInputs(nn.Module):
    """Images, and a vector of each sample beside them."""

    def __init__(self):
        super().__init__()
        self.inner, self.beside, self.head = PooledNet(), nn.Linear(4, 5), nn.Linear(10, 3)

    def forward(self, images, facts, table=None, sign=1):
        both = torch.cat([self.inner(images), self.beside(facts)], 1)
        logits = sign * self.head(both.tanh())
        return logits if table is None else logits * table.sum()


@pytest.mark.parametrize("mode", [{}, {"optimize": "inference"}, {"precision": "bf16"}], ids=repr)
def test_by_position_and_by_name(mode):
    model, facts, table = TwoInputs().eval(), torch.randn(3, 4), torch.ones(2, 7)
    cam = camfast.GradCAM(model, "inner.act2", **mode)
    expected = cam.explain((X, facts))
    with torch.no_grad():
        torch.testing.assert_close(
            expected.logits, model(X, facts), rtol=0.1, atol=0.05 if mode.get("precision") else 1e-5
        )
    assert cam.explain({"images": X, "facts": facts}).heatmaps.equal(expected.heatmaps)
    assert cam.explain({"facts": facts, "images": X}).heatmaps.equal(expected.heatmaps)
    assert cam.explain([X, facts, None, 1]).heatmaps.equal(expected.heatmaps)
    torch.testing.assert_close(
        cam((X, facts, table), 1), cam((X, facts), 1), rtol=0, atol=0.1 if mode.get("precision") else 1e-5
    )
    assert not cam((X, facts, None, -1), 1).equal(cam((X, facts), 1))
    assert cam((X[:0], facts[:0])).shape == (0, 16, 20)
    alone = cam((X[1:2], facts[1:2]))
    torch.testing.assert_close(alone[0], expected.heatmaps[1], rtol=0, atol=0.1 if mode.get("precision") else 1e-5)


def test_what_is_of_each_sample_is_divided():
    batch = check_inputs((X, torch.arange(3), torch.ones(2), 7))
    part = batch.part(1, 3)
    assert [tuple(t.shape) for t in part.tensors] == [(2, 3, 16, 20), (2,), (2,)]
    assert part.tensors[1].tolist() == [1, 2]
    padded = batch.padded(5)
    assert padded.tensors[1].tolist() == [0, 1, 2, 2, 2]
    assert padded.tensors[2].tolist() == [1, 1]
    assert len(padded) == 5


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("photo.jpg", TypeError, "x is a str; expected a tensor .*, or several inputs: a tuple, or a dict by name"),
        ((), ValueError, r"x has no batch of images \[N, C, H, W\] among its inputs \(none\)"),
        ((torch.ones(2, 3), "a"), ValueError, r"among its inputs \(\[2, 3\], str\)"),
        ((torch.zeros(1, 3, 4, 4, dtype=torch.uint8),), TypeError, r"x\[0\] has dtype torch.uint8"),
        ({"image": torch.zeros(1, 3, 4, 4).int()}, TypeError, r"x\['image'\] has dtype torch.int32"),
        ({1: X}, TypeError, r"x has keys \[1\]; expected the names of the model's inputs"),
    ],
)
def test_wrong_inputs_are_named(x, error, message):
    with pytest.raises(error, match=message):
        camfast.GradCAM(PooledNet())(x)
