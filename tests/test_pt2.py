"""Explainers compiled ahead of time, and loaded in Python."""

import pytest
import torch
import torch.nn.functional as F
from nets import CifarNet, PooledNet, Tail

import camfast
from camfast.errors import InputError, ModelError, OutputError
from camfast.quiet import without_notices

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def assert_is_the_engine(explainer, engine, x, targets=None):
    expected = engine.explain(x, targets)
    heatmaps, logits, classes = explainer(x, None if targets is None else torch.tensor(targets))
    torch.testing.assert_close(heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert classes.equal(expected.targets)


def test_a_linear_head_for_any_batch(pooled_pt2):
    model, path = pooled_pt2
    explainer = camfast.load_explainer(path)
    engine = camfast.GradCAM(model, "act2")
    for samples in (1, 2, 5):
        assert_is_the_engine(explainer, engine, torch.randn(samples, 3, 32, 32))
    assert_is_the_engine(explainer, engine, X, [4, 0])
    assert explainer(X, torch.tensor([-1, 2])).targets.tolist() == [int(explainer(X).targets[0]), 2]
    facts = explainer.facts
    assert (facts.takes, facts.method, facts.layer, facts.classes) == ("images", "gradcam", "act2", 5)
    assert (facts.class_names, facts.shape, facts.dtype) == (("a", "b", "c", "d", "e"), (3, 32, 32), "torch.float32")


def test_another_head_and_a_relu_before_the_pooling(tmp_path):
    model = Tail(lambda net, x: net.fc2(net.fc(net.norm(x).relu().mean((2, 3))).relu())).eval()
    path = camfast.to_pt2(model, tmp_path / "tail.pt2", "norm", method="layercam", example=X[:1])
    assert [file.name for file in tmp_path.iterdir()] == ["tail.pt2"]
    assert_is_the_engine(camfast.load_explainer(path), camfast.LayerCAM(model, "norm"), X, [1, 3])


def test_a_batch_norm_and_an_activation_before_the_pooling(tmp_path):
    model = Tail(lambda net, x: net.fc(F.silu(net.norm(x)).mean((2, 3)))).eval()
    path = camfast.to_pt2(model, tmp_path / "tail.pt2", "conv", example=X[:1])
    assert_is_the_engine(camfast.load_explainer(path), camfast.GradCAM(model, "conv"), X, [1, 3])


@pytest.mark.parametrize(
    ("x", "targets", "message"),
    [
        (X[:0], None, r"x has shape \[0, 3, 32, 32\]; this explainer takes \[N, 3, 32, 32\], with N at least 1"),
        (X[..., :16], None, r"x has shape \[2, 3, 32, 16\]; this explainer takes"),
        (X.double(), None, "x has dtype torch.float64; this explainer takes torch.float32"),
        (X, torch.tensor([0, 5]), "targets has classes from 0 to 5; expected 0 to 4, or -1"),
        (X, torch.tensor([0]), r"targets has shape torch.Size\(\[1\]\); expected \[2\], one class a sample"),
    ],
)
def test_a_wrong_input_is_named(pooled_pt2, x, targets, message):
    with pytest.raises(ValueError, match=message):
        camfast.load_explainer(pooled_pt2[1])(x, targets)


def test_what_has_no_closed_form_is_refused_and_pointed_to_torchscript(tmp_path):
    with pytest.raises(
        ModelError,
        match=r"the gradient at 'conv2' has no closed form \(no global average pooling, but .* follows 'conv2'\), which "
        r".pt2 needs; export it as TorchScript: camfast.to_torchscript, or --format torchscript",
    ):
        camfast.to_pt2(CifarNet().eval(), tmp_path / "no.pt2", "conv2", example=X)
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked_before_anything_is_compiled(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in .pt2"):
        camfast.to_pt2(PooledNet().eval(), tmp_path / "explainer.pt", example=X)
    (tmp_path / "there.pt2").write_text("something")
    with pytest.raises(OutputError, match="exists; give --overwrite"):
        camfast.to_pt2(PooledNet().eval(), tmp_path / "there.pt2", example=X)


class TestLoading:
    def test_torchscript(self, tmp_path):
        model = PooledNet().eval()
        explainer = camfast.to_torchscript(model, "act2", example=X)
        with without_notices():
            explainer.save(str(tmp_path / "explainer.pt"))
        loaded = camfast.load_explainer(tmp_path / "explainer.pt")
        assert loaded(X).heatmaps.equal(explainer(X).heatmaps)
        assert (loaded.facts.takes, loaded.facts.layer, loaded.facts.classes) == ("images", "act2", 5)
        with pytest.raises(ValueError, match=r"^x has shape \[3, 32, 32\]; expected \[N, 3, H, W\]$"):
            loaded(X[0])

    def test_what_is_no_explainer(self, tmp_path):
        with pytest.raises(InputError, match="none.pt does not exist"):
            camfast.load_explainer(tmp_path / "none.pt")
        (tmp_path / "text.pt").write_text("no explainer")
        with pytest.raises(InputError, match="text.pt is no explainer: not a file of TorchScript or .pt2"):
            camfast.load_explainer(tmp_path / "text.pt")
        with without_notices():
            torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.pt"))
        with pytest.raises(InputError, match="relu.pt is TorchScript, but no explainer; make one with camfast export"):
            camfast.load_explainer(tmp_path / "relu.pt")
        torch.save(torch.zeros(2), tmp_path / "tensor.pt")
        with pytest.raises(InputError, match="tensor.pt cannot be loaded: RuntimeError"):
            camfast.load_explainer(tmp_path / "tensor.pt")
