"""FullGrad: by hand, by the definition in float64, as the peer has it, and what it refuses."""

import contract
import pytest
import torch
from nets import FrozenBackbone, NormalizesInPlace, Residual
from torch import nn
from torch.nn import functional as F

import camfast
from camfast.methods.fullgrad import FullGrad

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(FullGrad, lambda: Residual().eval(), X.clone())


def linear_after(layer: nn.Module) -> nn.Module:
    """A layer on a picture of 2 × 2, and the sum of what it puts out with the weights 1, 2, 3 and 4."""
    head = nn.Linear(4, 1, bias=False)
    head.weight.data = torch.tensor([[1.0, 2, 3, 4]])
    return nn.Sequential(layer, nn.Flatten(), head).eval()


PICTURE = torch.tensor([[[[1.0, 2], [3, 4]]]])


def test_a_convolution_by_hand():
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.data.fill_(2)
    conv.bias.data.fill_(-3)
    explained = FullGrad(linear_after(conv)).explain(PICTURE)
    # Input times gradient: 2, 8, 18, 32; stretched 0, 1/5, 8/15, 1. Bias times gradient, without its sign: 3, 6, 9, 12;
    # stretched 0, 1/3, 2/3, 1. The sum is 0, 8/15, 6/5, 2.
    expected = torch.tensor([[[0, 4 / 15], [3 / 5, 1]]])
    torch.testing.assert_close(explained.heatmaps, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(explained.ranges, torch.tensor([[0.0, 2]]), rtol=0, atol=1e-6)


def test_a_batchnorm_by_hand():
    norm = nn.BatchNorm2d(1, eps=1)
    norm.weight.data.fill_(4)
    norm.bias.data.fill_(1)
    norm.running_mean.fill_(2)
    norm.running_var.fill_(3)
    # Scaled by 4 / sqrt(3 + 1) = 2, and 1 - 2 * 2 = -3 added: the convolution from above.
    got = FullGrad(linear_after(norm)).explain(PICTURE)
    torch.testing.assert_close(got.heatmaps, torch.tensor([[[0, 4 / 15], [3 / 5, 1]]]), rtol=0, atol=1e-6)


def test_what_is_the_same_everywhere_adds_nothing():
    conv = nn.Conv2d(1, 1, 2)  # to a single position, as in squeeze and excitation
    model = nn.Sequential(conv, nn.Flatten()).eval()
    conv.weight.data = torch.tensor([[[[1.0, 1], [1, 1]]]])
    conv.bias.data.fill_(1e6)
    got = FullGrad(model).explain(PICTURE)
    torch.testing.assert_close(got.heatmaps, torch.tensor([[[0, 1 / 3], [2 / 3, 1]]]), rtol=0, atol=1e-6)


def stretched64(maps):
    low = maps.amin((2, 3), keepdim=True)
    return (maps - low) / (1e-7 + (maps - low).amax((2, 3), keepdim=True))


def fullgrad64(model, x, targets, size):
    """Channel by channel at full size, and the sum at the end; the score is also taken apart, as the paper has it."""
    x, parts, handles = x.double().requires_grad_(), [], []
    for module in model.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            bias = module.bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            bias = module.bias
        else:
            continue

        def hook(module, args, output, bias=bias):
            parts.append((bias.detach()[:, None, None], output))
            return output.clone()

        handles.append(module.register_forward_hook(hook))
    scores = model(x)[range(len(x)), targets]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(scores.sum(), [x, *(output for _, output in parts)])
    products = [(x * gradients[0]).detach(), *(b * g for (b, _), g in zip(parts, gradients[1:], strict=True))]
    maps = [F.interpolate(stretched64(p.abs()), size, mode="bilinear", align_corners=False).sum(1) for p in products]
    return sum(maps), scores.detach(), products


@pytest.mark.parametrize("size", [(24, 20), (31, 45), (10, 7)])
def test_by_the_definition_in_float64(size):
    model = Residual().eval()
    model.act = nn.ReLU()
    explained = FullGrad(model).explain(X, [0, 3, 1], size=size, normalize=False)
    expected, scores, products = fullgrad64(model, X, [0, 3, 1], size)
    torch.testing.assert_close(explained.heatmaps.double(), expected, rtol=1e-4, atol=1e-4)
    # With ReLU alone nothing is missing but the bias of the classifier: every bias was found.
    complete = sum(p.sum((1, 2, 3)) for p in products) + model.fc.bias[[0, 3, 1]].detach()
    torch.testing.assert_close(complete, scores)


def test_a_layer_counts_each_time_it_runs_and_functions_count_as_layers():
    class Shared(nn.Module):
        def __init__(self, functional):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 4)
            self.norm.running_mean.fill_(0.5)
            self.functional = functional

        def forward(self, x):
            for _ in range(2):
                if self.functional:
                    x = F.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias, padding=1)
                    n = self.norm
                    x = F.batch_norm(x, n.running_mean, n.running_var, bias=n.bias, weight=n.weight, eps=n.eps).relu_()
                else:
                    x = F.relu(self.norm(self.conv(x)), inplace=True)
            return self.fc(x.mean((2, 3)))

    model = Shared(False).eval()
    got = FullGrad(model).explain(X, 1, normalize=False)
    model.functional = True
    contract.close(FullGrad(model).explain(X, 1, normalize=False), got)
    model.functional = False
    expected = fullgrad64(model, X, [1, 1, 1], (24, 20))[0]
    torch.testing.assert_close(got.heatmaps.double(), expected, rtol=1e-4, atol=1e-4)


def peer_maps(model, x, targets):
    from pytorch_grad_cam import FullGrad as Peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with Peer(model, []) as peer:
        return torch.from_numpy(peer(x.clone(), [ClassifierOutputTarget(t) for t in targets]))


def test_pytorch_grad_cam_on_a_residual_network():
    from torchvision.models import resnet18

    model = resnet18(num_classes=10).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 80, 112)
    theirs = peer_maps(model, x, [3, 5])
    model.zero_grad(set_to_none=True)
    assert (FullGrad(model)(x, [3, 5]) - theirs).abs().max() <= 1e-4


def test_pytorch_grad_cam_on_a_photo(lite0, cat):
    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])[:, :, 64:160, 48:144]
    theirs = peer_maps(lite0.module, x, [281, 285])
    lite0.module.zero_grad(set_to_none=True)
    assert (FullGrad(lite0.module)(x, [281, 285]) - theirs).abs().max() <= 1e-4


def test_a_model_that_changes_its_input_does_not_change_the_users():
    model, x = NormalizesInPlace().eval(), torch.rand(2, 3, 16, 16)
    given = x.clone()
    explained = FullGrad(model).explain(x, 1)
    assert x.equal(given)
    expected = FullGrad(nn.Sequential(Scaling(), model.inner)).explain(given, 1)
    contract.close(explained, expected)


class Scaling(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 0.25


def test_what_has_no_gradient_or_no_bias_is_refused():
    with pytest.raises(ValueError, match="no gradient flows back to the images: .* under no_grad; use .* GradCAM"):
        FullGrad(FrozenBackbone())(torch.randn(1, 3, 8, 8), 1)
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises(ValueError, match="BatchNorm without running statistics, .* track_running_stats=True"):
        FullGrad(model)(torch.randn(1, 3, 8, 8), 1)
    with torch.inference_mode():
        made_here = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"made under torch.inference_mode\(\)"):
        FullGrad(made_here)(torch.randn(1, 3, 8, 8), 1)


def test_layers_are_not_for_fullgrad():
    model = Residual()
    with pytest.raises(ValueError, match="target_layers is given, but FullGrad has no target layer; leave it out"):
        FullGrad(model, "stem")
    with pytest.raises(ValueError, match="reshape_transform is given, but FullGrad has no target layer"):
        FullGrad(model, None, lambda t: t)
    engine = FullGrad(model, None, None, optimize="none", precision=None)
    assert engine.target_layers == []
    assert repr(engine) == "FullGrad(Residual)"
    assert isinstance(engine.plan, camfast.Plan)


def test_volumes():
    contract.volumes_of_depth_one_are_as_images(FullGrad)
