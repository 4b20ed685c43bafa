"""Engines on models that were scripted or traced: the results of the module that they were made from, to the bit."""

import copy
import io

import pytest
import torch
from nets import CifarNet, PooledNet, Residual, Tokens
from torch import nn

import camfast
from camfast.errors import ModelError
from camfast.quiet import without_notices

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def made(kind, model):
    with without_notices():
        script = torch.jit.trace(model, (X,)) if kind == "traced" else torch.jit.script(model)
        saved = io.BytesIO()
        torch.jit.save(script, saved)
        saved.seek(0)
        return torch.jit.load(saved)


class Twins(nn.Module):
    """Blocks of one type, whose scripts share a graph, one of which runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.blocks(x) + x
        return self.head((self.blocks(y) + x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.conv(x)) + x


@pytest.mark.parametrize("kind", ["scripted", "traced"])
@pytest.mark.parametrize(
    ("net", "layer"), [(PooledNet, "act2"), (Residual, "act"), (Twins, "blocks.1.conv"), (Twins, "blocks")]
)
def test_the_same_as_of_the_module(kind, net, layer):
    model = net().eval()
    script = made(kind, model)
    for method in (camfast.GradCAM, camfast.LayerCAM):
        cam, expected = method(script, target_layers=[layer]), method(model, target_layers=[layer])
        for targets in (None, [1, 2], camfast.TopK(2), lambda output: output[0] * 2):
            found, wanted = cam.explain(X, targets), expected.explain(X, targets)
            torch.testing.assert_close(found.heatmaps, wanted.heatmaps, rtol=0, atol=1e-6)
            torch.testing.assert_close(found.logits, wanted.logits)
    assert camfast.ScoreCAM(script, layer)(X).shape == (2, 32, 32)


def test_exported_again():
    model = Residual().eval()
    explainer = camfast.to_torchscript(made("scripted", model), "act", example=X)
    assert explainer(X).heatmaps.equal(camfast.GradCAM(model, "act")(X))


def test_the_script_is_left_as_it_was():
    script = made("scripted", Residual().train())
    before, state = str(script.forward.graph), copy.deepcopy(script.state_dict())
    camfast.GradCAM(script, "act")(X)
    assert str(script.forward.graph) == before
    assert script.training
    assert all(p.requires_grad for p in script.parameters())
    assert all(tensor.equal(state[name]) for name, tensor in script.state_dict().items())


def test_an_error_inside_comes_through():
    cam = camfast.GradCAM(made("traced", CifarNet().eval()), "conv2")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        cam(torch.randn(2, 3, 40, 40))
    assert cam(X).shape == (2, 32, 32)


def test_the_plan_says_what_it_is_and_engines_can_be_copied():
    cam = camfast.GradCAM(made("traced", CifarNet().eval()), "conv2")
    heatmaps = cam(X)
    assert cam.plan.gradient == "autograd, from conv2 on (not traceable: the model is a ScriptModule)"
    assert copy.deepcopy(cam)(X).equal(heatmaps)


class TestRefusals:
    def test_layers_that_are_not_given_by_one_name(self):
        script = made("traced", PooledNet().eval())
        for layers in (None, ["act", "act2"], script.act2):
            with pytest.raises(
                TypeError, match=r'give one layer by its dotted name, target_layers=\["layer4"\], or the'
            ):
                camfast.GradCAM(script, layers)

    def test_a_layer_that_is_not_there(self):
        with pytest.raises(ModelError, match=r"target layer 'act3' is not in the model; did you mean act, act2"):
            camfast.GradCAM(made("scripted", PooledNet().eval()), "act3")

    def test_a_layer_that_does_not_run(self):
        class Idle(PooledNet):
            def __init__(self):
                super().__init__()
                self.idle = nn.ReLU()

        with pytest.raises(
            ModelError, match="layer 'idle' does not run as a module of its own in the ScriptModule; choose"
        ):
            camfast.GradCAM(made("scripted", Idle().eval()), "idle")

    def test_a_layer_in_a_loop(self):
        class Loops(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 3, padding=1)

            def forward(self, x):
                for _ in range(int(x.shape[0])):
                    x = self.conv(x)
                return x.mean((2, 3))

        with pytest.raises(ModelError, match="layer 'conv' runs inside a branch or a loop of the ScriptModule; choose"):
            camfast.GradCAM(made("scripted", Loops().eval()), "conv")

    def test_parts_that_are_not_frozen(self):
        with pytest.raises(
            ModelError, match=r"has parts that torch.jit.freeze leaves as they are; choose another layer, or"
        ):
            camfast.GradCAM(made("scripted", Tokens().eval()), "mix")

    def test_a_layer_that_puts_out_a_tuple(self):
        class Pairs(nn.Module):
            def forward(self, x):
                return x, x * 2

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.pairs = Pairs()

            def forward(self, x):
                a, b = self.pairs(x)
                return (a + b).mean((2, 3))

        with pytest.raises(ModelError, match=r"layer 'pairs' puts out .*Tensor, Tensor.*, not one tensor"):
            camfast.GradCAM(made("scripted", Net().eval()), "pairs")
