"""ShapleyCAM: by hand, by the definition in float64, as the peer has it, and what it refuses."""

import contract
import pytest
import torch
from nets import FrozenBackbone, PooledNet, Residual, Tokens
from torch import nn
from torch.nn import functional as F

import camfast
from camfast import ops
from camfast.methods.shapley import ShapleyCAM

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


class Bends(PooledNet):
    """Nothing after the convolution is piecewise linear."""

    def forward(self, x):
        x = F.gelu(self.conv(self.act(self.norm(self.stem(x)))))
        return self.head(x.mean((2, 3))).softmax(1)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("layers", ["conv", ["norm", "conv"]], ids=["one layer", "two layers"])
def test_contract(layers, check):
    check(lambda model, **options: ShapleyCAM(model, layers, **options), lambda: Bends().eval(), X.clone())


class Squares(nn.Module):
    """Two channels, of which the first counts with its squares and the second twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        x = self.layer(x)
        return (x[:, 0].square() + 2 * x[:, 1]).sum((1, 2))[:, None]


def test_by_hand():
    x = torch.tensor([[[[1.0, 2], [3, 4]], [[4, 0], [0, 0]]]])
    explained = ShapleyCAM(Squares(), "layer").explain(x)
    # Of the first channel the gradient is 2 a, and the Hessian times a as much: 2 a - a = a, whose mean is 5/2. Of the
    # second it is 2 everywhere. The map: 5/2 + 8, 5, 15/2, 10. Grad-CAM has the weights 5 and 2.
    assert explained.ranges.tolist() == [[5, 10.5]]
    expected = torch.tensor([[[1, 0], [2.5 / 5.5, 5 / 5.5]]])
    torch.testing.assert_close(explained.heatmaps, expected)
    assert camfast.GradCAM(Squares(), "layer").explain(x).ranges.tolist() == [[10, 20]]


def test_what_is_piecewise_linear_does_not_bend():
    model = Residual().eval()
    for layers in (None, "bn_c", ["bn_c", "bn_down"]):
        model.act = nn.ReLU()
        contract.close(ShapleyCAM(model, layers).explain(X, 1), camfast.GradCAM(model, layers).explain(X, 1))


@pytest.mark.parametrize("size", [None, (9, 31), "layer"])
def test_by_the_definition_in_float64(size):
    model = Bends().double().eval()
    x, targets = X.double(), [0, 3, 1]
    with camfast.capture(model, "conv") as seen, torch.no_grad():
        model(x)
    activations = seen.activations["conv"]
    weights = []
    for a, target in zip(activations, targets, strict=True):

        def score(flat, a=a, target=target):
            return model.head(F.gelu(flat.reshape_as(a)).mean((1, 2))).softmax(0)[target]

        gradient = torch.autograd.functional.jacobian(score, a.flatten())
        hessian = torch.autograd.functional.hessian(score, a.flatten())
        weights.append((gradient - hessian @ a.flatten() / 2).reshape(a.shape).mean((1, 2)))
    expected = ops.cam(activations, weights=torch.stack(weights), size={None: (24, 20), "layer": None}.get(size, size))
    got = ShapleyCAM(model, "conv").explain(x, targets, size=size)
    torch.testing.assert_close(got.heatmaps.double(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.ranges.double(), expected[1], rtol=1e-4, atol=0)
    plain = camfast.GradCAM(model, "conv").explain(x, targets, size=size)
    assert (got.ranges[:, 1] / plain.ranges[:, 1] - 1).abs().min() > 1e-3  # it does bend


def test_eigen_smoothing_is_the_first_component_of_the_weighted_activations():
    x = torch.rand(2, 2, 6, 5)
    got = ShapleyCAM(Squares(), "layer", eigen_smooth=True).explain(x)
    weighted = x * torch.stack([x[:, 0].mean((1, 2)), torch.full((2,), 2.0)], 1)[:, :, None, None]
    expected = camfast.GradCAM(Sums(), "layer", eigen_smooth=True).explain(weighted)
    contract.close(camfast.Explanation(got.heatmaps, expected.logits, None, got.ranges), expected)


class Sums(Squares):
    """Every channel has the weight 1."""

    def forward(self, x):
        return self.layer(x).sum((1, 2, 3))[:, None]


def test_a_backbone_in_the_models_own_no_grad_block():
    model, x = FrozenBackbone(), torch.randn(2, 3, 10, 10)
    a = model.backbone(x).detach()
    # The score is w times the mean of squares: gradient 2 w a / n, half of the Hessian times a: w a / n.
    weights = model.head.weight[1].detach() * a.mean((2, 3)) / a[0, 0].numel()
    expected = ops.cam(a, weights=weights, size=(10, 10))
    got = ShapleyCAM(model, "backbone").explain(x, 1)
    torch.testing.assert_close(got.heatmaps, expected[0])
    torch.testing.assert_close(got.ranges, expected[1])


def test_a_layer_that_puts_out_several_tensors():
    class Pair(Squares):
        def __init__(self):
            super().__init__()
            self.layer = Splits()

        def forward(self, x):
            first, second = self.layer(x)
            return (first.square() + 2 * second.detach()).sum((1, 2, 3))[:, None]

    x = torch.rand(2, 2, 6, 5)
    got = ShapleyCAM(Pair(), "layer", lambda pair: torch.cat(pair, 1)).explain(x, [[0, 0], [0, 0]])
    expected = ops.cam(x[:, :1], weights=x[:, :1].mean((2, 3)))
    torch.testing.assert_close(got.heatmaps[:, 1], expected[0])
    torch.testing.assert_close(got.ranges[:, 0], expected[1])


class Splits(nn.Module):
    def forward(self, x):
        return x[:, :1], x[:, 1:]


@pytest.mark.filterwarnings("ignore")
class TestPytorchGradCam:
    def maps(self, model, layer, x, targets):
        from pytorch_grad_cam import ShapleyCAM as Peer

        with Peer(model, [model.get_submodule(layer)]) as peer:
            return torch.from_numpy(peer(x.clone(), targets))

    @pytest.mark.parametrize("layer", ["layer3", "layer4"])
    def test_a_residual_network(self, layer):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
        from torchvision.models import resnet18

        model, x = resnet18(num_classes=10).eval(), torch.randn(2, 3, 80, 112)
        theirs = self.maps(model, layer, x, [ClassifierOutputSoftmaxTarget(3), ClassifierOutputSoftmaxTarget(5)])
        targets = [lambda output: output.softmax(-1)[3], lambda output: output.softmax(-1)[5]]
        assert (ShapleyCAM(model, layer)(x, targets) - theirs).abs().max() <= 1e-4

    def test_a_photo(self, lite0, cat):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        x = lite0.preprocess(torch.from_numpy(cat)[None])
        x, model = torch.cat([x, x.flip(3)])[:, :, 64:160, 48:144], lite0.module
        theirs = self.maps(model, "_blocks.10", x, [ClassifierOutputTarget(281), ClassifierOutputTarget(285)])
        assert (ShapleyCAM(model, "_blocks.10")(x, [281, 285]) - theirs).abs().max() <= 1e-4


def test_a_transformer_of_timm_whose_attention_is_fused():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5).eval()
    x, layer = torch.randn(2, 3, 32, 32), "blocks.1.norm1"
    assert model.blocks[1].attn.fused_attn
    got = ShapleyCAM(model, layer).explain(x, [1, 3])

    model, leaves = model.double(), []
    for block in model.blocks:
        block.attn.fused_attn = False  # which can be differentiated twice
    handle = model.blocks[1].norm1.register_forward_hook(
        lambda module, args, output: leaves.append(output.detach().requires_grad_()) or leaves[0]
    )
    score = model(x.double())[range(2), [1, 3]].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, leaves, create_graph=True)
    (product,) = torch.autograd.grad(gradient, leaves, leaves[0].detach())
    a, bent = ((t[:, 1:].detach().mT.unflatten(2, (4, 4))) for t in (leaves[0], gradient - product / 2))
    expected = ops.cam(a, weights=bent.mean((2, 3)), size=(32, 32))
    torch.testing.assert_close(got.heatmaps.double(), expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.ranges.double(), expected[1], rtol=1e-4, atol=1e-9)


def test_fused_attention_of_pytorch_is_done_without():
    model, x = Tokens().eval(), torch.randn(2, 3, 32, 32)

    got = ShapleyCAM(model, "patches").explain(x, 1)
    a = model.patches(x).detach().double().requires_grad_()
    model = model.double()
    tokens = a.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.new_zeros(2, 1, 12), tokens], 1)
    block = model.mix
    attended = block.self_attn(tokens, tokens, tokens, need_weights=True)[0]
    tokens = block.norm1(tokens + attended)
    tokens = model.norm(block.norm2(tokens + block.linear2(block.linear1(tokens).relu())))
    score = model.head(tokens[:, 0] + tokens[:, 1:].mean(1))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, a, create_graph=True)
    (product,) = torch.autograd.grad(gradient, a, a.detach())
    expected = ops.cam(a.detach(), weights=(gradient - product / 2).detach().mean((2, 3)), size=(32, 32))
    torch.testing.assert_close(got.heatmaps.double(), expected[0], rtol=0, atol=1e-4)


def test_what_cannot_be_explained_is_refused():
    class Branch(PooledNet):
        def forward(self, x):
            self.act2(x)
            return self.head(self.conv(self.act(self.norm(self.stem(x)))).mean((2, 3)))

    with pytest.raises(ValueError, match="the score does not depend on layer 'act2'"):
        ShapleyCAM(Branch(), "act2")(X, 1)
    with pytest.raises(ValueError, match="target layer 'dropout' did not run"):
        ShapleyCAM(Branch(), "dropout")(X, 1)
    with pytest.raises(ValueError, match="target layer 'convv' is not in the model"):
        ShapleyCAM(Branch(), "convv")
    with pytest.raises(ValueError, match="eigen_smooth=1; expected True or False"):
        ShapleyCAM(Branch(), eigen_smooth=1)


def test_an_operation_without_a_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Net(Bends):
        def forward(self, x):
            x = self.conv(self.act(self.norm(self.stem(x))))
            return self.head(Once.apply(x).square().mean((2, 3))).square()

    model = Net().eval()
    with pytest.raises(RuntimeError, match="marked once_differentiable, .* choose a later layer, or GradCAM"):
        ShapleyCAM(model, "conv")(X, 1)
    assert camfast.GradCAM(model, "conv")(X, 1).shape == (3, 24, 20)


def test_volumes():
    contract.volumes_of_depth_one_are_as_images(lambda model: ShapleyCAM(model, "layer"))
