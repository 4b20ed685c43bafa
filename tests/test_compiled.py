"""optimize="compile": one graph for every shape, and what happens where that fails."""

import torch
from explanations import assert_close
from nets import CifarNet, Residual
from parts import X

import camfast
from camfast.optimize import compiled


def test_is_the_model_and_takes_any_batch():
    torch._dynamo.reset()
    model = Residual().eval()
    plain, cam = camfast.GradCAM(model), camfast.GradCAM(model, optimize="compile")
    for samples in (3, 2, 1, 2):  # compiled; padded; padded; compiled, as it comes again
        assert_close(
            cam.explain(X[:samples], [1, 0, 2][:samples]), plain.explain(X[:samples], [1, 0, 2][:samples]), None
        )
    assert len(cam._made.runner.preferred.before._variants) == 2
    assert "torch.compile" in cam.plan.forward
    assert cam.plan.notes == ()


def test_the_part_after_the_layer():
    torch._dynamo.reset()
    model = CifarNet().eval()
    x = torch.randn(2, 3, 32, 32)
    cam, plain = camfast.GradCAM(model, "conv3", optimize="compile"), camfast.GradCAM(model, "conv3")
    for targets in (None, [1, 2], [[1, 2], [3, 4]], lambda output: output[2]):
        torch.testing.assert_close(cam(x, targets), plain(x, targets), rtol=0, atol=1e-5)
    assert cam.plan.notes == ()
    assert cam._made.runner.preferred.after._variants


def test_a_failure_leaves_the_next_best(monkeypatch):
    def broken(*args, **kwargs):
        def call(*args):
            raise RuntimeError("no compiler\nin many lines")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = Residual().eval()
    cam = camfast.GradCAM(model, optimize="compile")
    assert_close(cam.explain(X), camfast.GradCAM(model).explain(X), None)
    assert "packed by oneDNN" in cam.plan.forward
    assert cam.plan.notes == ('optimize="compile": torch.compile failed (RuntimeError: no compiler)',)


def test_no_more_variants_than_a_few(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda part, **options: part)
    monkeypatch.setattr(compiled, "MOST_VARIANTS", 2)
    model = Residual().eval()
    cam = camfast.GradCAM(model, optimize="compile")
    for height in (24, 22, 20, 18):
        x = torch.randn(2, 3, height, 20)
        assert_close(cam.explain(x), camfast.GradCAM(model).explain(x), None)
    assert cam.plan.notes == ("up to the layer: more than 2 shapes: others run without torch.compile",)
