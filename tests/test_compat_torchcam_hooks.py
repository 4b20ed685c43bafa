"""camfast.compat.torchcam: the protocol of hooks, what a call needs of the forward pass, and what it leaves behind."""

import copy
import gc
import pickle

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Wrapped
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import camfast
from camfast.compat.torchcam.methods import (
    CAM,
    ISCAM,
    SSCAM,
    FinerCAM,
    GradCAM,
    GradCAMpp,
    LayerCAM,
    LeGrad,
    RefineCAM,
    ScoreCAM,
    SmoothGradCAMpp,
    XGradCAM,
)
from camfast.compat.torchcam.methods.core import _CAM
from camfast.compat.torchcam.methods.gradient import _GradCAM

X = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(3))
GRADIENT = [GradCAM, GradCAMpp, XGradCAM, LayerCAM, FinerCAM, RefineCAM]
AGAIN = [ScoreCAM, SSCAM, ISCAM, SmoothGradCAMpp]


@pytest.fixture
def net():
    torch.manual_seed(5)
    model = PooledNet().eval()
    model.head.weight.data.mul_(8)
    return model


def made(method, model, **options):
    if method in (SSCAM, ISCAM, SmoothGradCAMpp):
        options["num_samples"] = 2
    return method(model, ["act2", "act"] if method is RefineCAM else "act2", **options)


def close(ours, theirs, within=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.double() - other.double()).abs().max() <= within


class TestHooks:
    @pytest.mark.parametrize(
        ("method", "count"), [(CAM, 1), (GradCAM, 2), (FinerCAM, 2), (RefineCAM, 3), (ScoreCAM, 1)]
    )
    def test_there_are_few(self, net, method, count):
        before = fingerprint(net)
        extractor = made(method, net)
        assert fingerprint(net)["hooks"] == count
        assert len(getattr(extractor, "base_cam", extractor).hook_handles) == count
        extractor.remove_hooks()
        assert_same(before, fingerprint(net))
        assert getattr(extractor, "base_cam", extractor).hook_handles == []

    @pytest.mark.parametrize("method", [CAM, *GRADIENT, *AGAIN])
    def test_the_end_of_a_block_takes_them_away(self, net, method):
        before = fingerprint(net)
        with made(method, net) as extractor:
            extractor(1, net(X))
        assert_same(before, fingerprint(net))
        with pytest.raises(AssertionError, match="has seen no forward pass"):
            getattr(extractor, "base_cam", extractor).compute_cams(1, torch.zeros(2, 5))

    @pytest.mark.parametrize("method", [CAM, *GRADIENT, *AGAIN])
    def test_the_end_of_the_extractor_takes_them_away(self, net, method):
        before = fingerprint(net)
        extractor = made(method, net)
        extractor(1, net(X))
        del extractor
        gc.collect()
        assert_same(before, fingerprint(net))

    @pytest.mark.parametrize("method", [CAM, *GRADIENT, *AGAIN])
    def test_a_call_leaves_the_model_as_it_is_under_hooks(self, net, method):
        net.train()
        net.head.weight.requires_grad_(False)
        net.stem.weight.grad = torch.ones_like(net.stem.weight)
        with made(method, net) as extractor:
            with torch.no_grad():
                scores = net(X)
            before = fingerprint(net)
            extractor([1, 2], scores)
            assert_same(before, fingerprint(net))

    @pytest.mark.parametrize("method", [GradCAM, SmoothGradCAMpp])
    def test_a_call_that_raises_leaves_the_model_as_it_is_under_hooks(self, method):
        model = Raises().eval()
        model.broken = False
        with method(model, "conv") as extractor, torch.no_grad():
            scores = model(torch.randn(1, 3, 8, 8))
            model.broken = True
            before = fingerprint(model)
            with pytest.raises(KeyError, match="the user's own exception"):
                extractor(1, scores)
            assert_same(before, fingerprint(model))

    def test_no_gradient_is_filled(self, net):
        for method in GRADIENT:
            with made(method, net) as extractor:
                extractor(1, net(X))
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_hooks_change_neither_the_output_nor_its_graph(self, net):
        expected = net(X)
        with GradCAM(net, ["act", "act2"]):
            scores = net(X)
        assert scores.equal(expected)
        gradients = [torch.autograd.grad(s.square().sum(), list(net.parameters())) for s in (expected, scores)]
        assert all(one.equal(other) for one, other in zip(*gradients, strict=True))
        with torch.no_grad(), GradCAM(net, "act2"):
            assert not net(X).requires_grad

    def test_disabled_hooks_see_nothing(self, net):
        with GradCAM(net, "act2", enable_hooks=False) as extractor:
            assert not extractor._hooks_enabled
            net(X)
            assert extractor.hook_a == [None]
            extractor.enable_hooks()
            net(X)
            seen = extractor.hook_a[0]
            assert seen.shape == (2, 16, 10, 12)
            extractor.disable_hooks()
            net(X + 1)
            assert extractor.hook_a[0] is seen
            with extractor._hooks_off():
                assert not extractor._hooks_enabled
            assert not extractor._hooks_enabled

    def test_reset_hooks_forgets(self, net):
        with GradCAM(net, "act2") as extractor:
            extractor(1, net(X))
            assert extractor.hook_g[0].shape == (2, 16, 10, 12)
            extractor.reset_hooks()
            assert extractor.hook_a == extractor.hook_g == [None]
            with pytest.raises(AssertionError, match="GradCAM has seen no forward pass: run the model"):
                extractor(1, torch.zeros(2, 5))

    def test_removed_hooks_leave_what_they_saw(self, net):
        extractor = GradCAM(net, "act2")
        scores = net(X)
        extractor.remove_hooks()
        close(extractor(1, scores, False), [camfast.GradCAM(net, "act2")(X, 1, size="layer", normalize=False)])

    def test_a_copy_of_the_model_works_and_is_not_seen(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net(X)
            for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
                assert other(X + 1).shape == (2, 5)
            close(extractor(1, scores), [camfast.GradCAM(net, "act2")(X, 1, size="layer")])

    def test_a_layer_that_is_recomputed_in_the_backward_pass_is_seen_once(self, net):
        model = Wrapped(nn.Sequential(net.stem, net.act), lambda x: net.head(net.conv(x).mean((2, 3)))).eval()
        inner = model.inner.forward
        model.inner.forward = lambda x: checkpoint(inner, x, use_reentrant=False)
        with GradCAM(model, "inner") as extractor:
            maps = extractor([1, 2], model(X))
        close(maps, [camfast.GradCAM(model, "inner")(X, [1, 2], size="layer")])


class TestForwardPass:
    @pytest.mark.parametrize("method", GRADIENT)
    @pytest.mark.parametrize("how", ["no_grad", "inference_mode", "frozen", "frozen backbone"])
    def test_one_without_a_graph_is_explained_all_the_same(self, net, method, how):
        with made(method, net) as extractor:
            expected = extractor([1, 2], net(X))
            if how.startswith("frozen"):
                net.requires_grad_(False)
                net.head.requires_grad_(how == "frozen backbone")
                close(extractor([1, 2], net(X)), expected)
            else:
                with getattr(torch, how)():
                    close(extractor([1, 2], net(X)), expected)
                    close(extractor([1, 2], net(X)), expected)

    @pytest.mark.parametrize("method", AGAIN)
    def test_methods_that_run_the_model_need_no_graph_and_no_scores(self, net, method):
        with made(method, net) as extractor:
            expected = extractor(1, net(X))
            with torch.inference_mode():
                scores = net(X)
                close(extractor(1), expected)
                close(extractor([1, 1], scores, retain_graph=True), expected)

    def test_callables_explain_one_without_a_graph(self, net):
        with GradCAM(net, "act2") as extractor, torch.no_grad():
            maps = extractor(scores=net(X), targets=lambda output: output[1] - output[2])
        close(maps, [camfast.GradCAM(net, "act2")(X, lambda output: output[1] - output[2], size="layer")])

    def test_a_second_call_explains_anew_where_the_first_has_freed_the_graph(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net(X)
            kept = extractor(1, scores, retain_graph=True)
            close(extractor(1, scores), kept)
            close(extractor(1, scores), kept)

    def test_scores_may_be_made_of_the_output_where_there_is_a_graph(self, net):
        with GradCAM(net, "act2") as extractor:
            maps = extractor(1, net(X).softmax(1))
        close(maps, [camfast.GradCAM(net, "act2")(X, camfast.SoftmaxTarget(1), size="layer")])

    def test_scores_made_of_the_output_without_a_graph_are_refused(self, net):
        with GradCAM(net, "act2") as extractor, torch.no_grad():
            with pytest.raises(ValueError, match="scores has no graph, and is not what the model puts out"):
                extractor(1, net(X).softmax(1))
            with pytest.raises(ValueError, match=r"shape \[2, 3\] and no graph, and the model puts out nothing"):
                extractor(1, net(X)[:, :3])

    def test_an_output_in_a_dict_is_found(self, net):
        model = Wrapped(net, lambda output: {"aux": output * 0, "out": output, "other": output[:, :2]})
        expected = camfast.GradCAM(net, "act2")(X, 1, size="layer")
        with GradCAM(model, "inner.act2") as extractor:
            close(extractor(1, model(X)["out"]), [expected])
            with torch.no_grad():
                close(extractor(1, model(X)["out"]), [expected])

    @pytest.mark.parametrize("method", [GradCAM, ScoreCAM, SmoothGradCAMpp])
    def test_an_output_of_one_entry_a_sample_is_explained_by_callables(self, net, method):
        model = Wrapped(net, lambda output: [{"logits": row} for row in output])
        targets = [lambda entry: entry["logits"][1], lambda entry: entry["logits"][2]]
        options = {"num_samples": 2} if method is SmoothGradCAMpp else {}
        with made(method, net) as extractor:
            expected = extractor([1, 2], net(X))
        with method(model, "inner.act2", **options) as extractor:
            close(extractor(scores=model(X), targets=targets), expected)
            with torch.no_grad():
                close(extractor(scores=model(X), targets=targets), expected)

    def test_inputs_beside_the_images_and_by_name_are_passed_on(self, net):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net

            def forward(self, images, scale, *, shift=0.0):
                return self.inner(images * scale + shift)

        model = Scaled()
        for method in (GradCAM, SmoothGradCAMpp, LayerCAM):
            with method(model, "inner.act2") as extractor:
                expected = extractor(1, model(X, 2.0, shift=0.5))
                with torch.no_grad():
                    close(extractor(1, model(X, scale=2.0, shift=0.5)), expected)
                    close(extractor(1, model(X, 2.0, shift=0.5)), expected)

    def test_later_changes_of_the_input_are_not_seen(self, net):
        with GradCAM(net, "act2") as extractor, torch.no_grad():
            x = X.clone()
            scores = net(x)
            x.zero_()
            close(extractor(1, scores), [camfast.GradCAM(net, "act2")(X, 1, size="layer")])

    def test_a_model_that_changes_its_input_in_place_is_explained(self):
        model = NormalizesInPlace().eval()
        with GradCAM(model, "inner.act2") as extractor, torch.no_grad():
            maps = extractor(1, model(X.clone()))
        close(maps, [camfast.GradCAM(model, "inner.act2")(X.clone(), 1, size="layer")])

    def test_a_backbone_in_a_no_grad_block_of_the_model_is_explained(self):
        model = FrozenBackbone().eval()
        with GradCAM(model, "backbone") as extractor:
            close(extractor(1, model(X)), [camfast.GradCAM(model, "backbone")(X, 1, size="layer")])

    @pytest.mark.parametrize("method", [GradCAM, LayerCAM, ScoreCAM])
    def test_what_the_layer_put_out_counts_and_not_what_is_made_of_it_in_place(self, method):
        torch.manual_seed(5)
        model, plain = PooledNet(inplace=True).eval(), PooledNet().eval()
        plain.load_state_dict(model.state_dict())
        maps = []
        for net in (model, plain):
            with method(net, ["stem", "conv"]) as extractor:
                maps.append(extractor(1, net(X)))
        close(*maps)

    def test_a_model_whose_forward_is_called_by_hand_is_explained_by_its_graph(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net.forward(X)
            maps = extractor(1, scores)
            with pytest.raises(ValueError, match="was not seen, as its forward was called by hand"):
                extractor(1, scores)
        close(maps, [camfast.GradCAM(net, "act2")(X, 1, size="layer")])

    def test_a_sample_that_is_not_finite_gets_zeros_and_touches_no_other(self, net):
        x = X.clone()
        x[1, 0, 3, 3] = torch.nan
        with made(GradCAM, net) as extractor:
            (expected,) = extractor(1, net(X))
            (maps,) = extractor(1, net(x))
        assert maps[0].equal(expected[0])
        assert not maps[1].any()


class TestErrors:
    @pytest.mark.parametrize("method", [CAM, GradCAM, ScoreCAM, SmoothGradCAMpp])
    def test_a_call_without_a_forward_pass(self, net, method):
        with (
            made(method, net) as extractor,
            pytest.raises(AssertionError, match=f"{method.__name__} has seen no forward"),
        ):
            extractor(1, torch.zeros(2, 5))

    @pytest.mark.parametrize("method", [CAM, GradCAM, ScoreCAM, SmoothGradCAMpp])
    @pytest.mark.parametrize("index", [-1, [-1, 0], 5, [0, 5], [1], [1, 2, 3], [[1, 2], [3, 4]], "1"])
    def test_wrong_classes(self, net, method, index):
        with made(method, net) as extractor, pytest.raises(ValueError, match="targets|class_idx"):
            extractor(index, net(X))

    def test_neither_or_both_of_classes_and_targets(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net(X)
            with pytest.raises(ValueError, match="exactly one of class_idx or targets; neither given"):
                extractor(scores=scores)
            with pytest.raises(ValueError, match="exactly one of class_idx or targets; both given"):
                extractor(1, scores, targets=lambda output: output[1])

    def test_wrong_targets(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net(X)
            with pytest.raises(TypeError, match="targets is a int; expected a callable or a list of callables"):
                extractor(scores=scores, targets=3)
            with pytest.raises(
                ValueError, match="targets has 1 entries; per-sample targets must match the batch size, 2"
            ):
                extractor(scores=scores, targets=[lambda output: output[1]])
            with pytest.raises(ValueError, match="expected a scalar tensor"):
                extractor(scores=scores, targets=lambda output: output)
            with pytest.raises(RuntimeError, match="not connected to every target layer: .* 'act2'"):
                extractor(scores=scores, targets=lambda output: output[1].detach())
        with (
            CAM(net, "act2") as extractor,
            pytest.raises(ValueError, match="CAM does not support arbitrary output targets"),
        ):
            extractor(targets=lambda output: output[1])

    def test_wrong_scores(self, net):
        with GradCAM(net, "act2") as extractor:
            scores = net(X)
            with pytest.raises(ValueError, match="scores is required by GradCAM"):
                extractor(1)
            with pytest.raises(TypeError, match="scores is a list; model output scores must be a tensor"):
                extractor(1, [scores])
            with pytest.raises(ValueError, match="scores has 1 samples, and the last forward pass had 2"):
                extractor(1, scores[:1])
            with pytest.raises(TypeError, match="unexpected keyword argument 'gamma'"):
                extractor(1, scores, gamma=2)

    def test_wrong_layers(self, net):
        with pytest.raises(ValueError, match=r"target layer 'act3' is not in the model; did you mean act, act2"):
            GradCAM(net, "act3")
        with pytest.raises(ValueError, match="target layer ReLU is not a module of this model"):
            GradCAM(net, nn.ReLU())
        with pytest.raises(TypeError, match="target layer is a int"):
            GradCAM(net, [3])
        with pytest.raises(ValueError, match="no layer puts out a map for an input of"):
            GradCAM(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), input_shape=(3, 2, 2))
        assert fingerprint(net)["hooks"] == 0

    def test_a_layer_without_a_map_raises_in_the_call_and_not_in_the_forward_pass(self, net):
        with GradCAM(net, "dropout") as extractor:
            scores = net(X)
            with pytest.raises(ValueError, match=r"layer 'dropout' puts out \[2, 16\]; expected a map"):
                extractor(1, scores)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), Wrapped(nn.Identity(), lambda x: (x, x)), Wrapped(nn.Identity(), sum))
        with GradCAM(model, "1") as extractor:
            scores = model(X).mean((2, 3))
            with pytest.raises(TypeError, match="layer '1' puts out a tuple"):
                extractor(1, scores)

    def test_a_layer_that_does_not_run(self, net):
        net.spare = nn.Conv2d(3, 4, 3)
        with GradCAM(net, ["act2", "spare"]) as extractor:
            scores = net(X)
            with pytest.raises(AssertionError, match="target layer 'spare' did not run in the last forward pass"):
                extractor(1, scores)

    def test_a_wrong_transform(self, net):
        with pytest.raises(TypeError, match="reshape_transform is a int; expected a callable"):
            GradCAM(net, "act2", reshape_transform=3)
        with pytest.raises(ValueError, match="reshape_transform is given without target_layer"):
            GradCAM(net, reshape_transform=lambda t: t)
        with GradCAM(net, "act2", reshape_transform=lambda t: t.mean((2, 3))) as extractor:
            scores = net(X)
            with pytest.raises(ValueError, match=r"reshape_transform made \[2, 16\] of a layer's output"):
                extractor(1, scores)

    def test_cam_needs_its_classifier(self, net):
        with pytest.raises(ValueError, match="target_layer has 2 layers; CAM explains one"):
            CAM(net, ["act", "act2"])
        with pytest.raises(TypeError, match="fc_layer is a int"):
            CAM(net, "act2", fc_layer=3)
        with pytest.raises(ValueError, match="fc_layer 'act' is a ReLU, which has no weight"):
            CAM(net, "act2", fc_layer="act")
        with pytest.raises(ValueError, match="the model has: none"):
            CAM(nn.Sequential(nn.Conv2d(3, 4, 3)), "0")
        with CAM(net, "act") as extractor:
            net(X)
            with pytest.raises(ValueError, match="fc_layer has 16 inputs, and layer 'act' has 8 channels"):
                extractor(1)

    def test_refine_cam_needs_layers_and_an_extractor(self, net):
        with pytest.raises(ValueError, match="at least two target layers"):
            RefineCAM(net, ["act"])
        with pytest.raises(TypeError, match="base_method must be a CAM extractor class"):
            RefineCAM(net, ["act", "act2"], base_method=nn.Module)

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"base_method": ScoreCAM}, TypeError, "must be GradCAM, GradCAMpp, or LayerCAM"),
            ({"gamma": True}, TypeError, "real number"),
            ({"gamma": -0.1}, ValueError, "finite and non-negative"),
            ({"num_references": 1.5}, TypeError, "integer"),
            ({"num_references": 0}, ValueError, "positive"),
        ],
    )
    def test_finer_cam_checks_its_options(self, net, options, error, match):
        with pytest.raises(error, match=match):
            FinerCAM(net, "act2", **options)

    @pytest.mark.parametrize(
        ("comparison", "error", "match"),
        [
            ([], ValueError, "cannot be empty"),
            ((2,), TypeError, "integer, a list, or a nested list"),
            ([0, 2], ValueError, "contains the target class 0 itself, for sample 0"),
            ([2, 2], ValueError, "duplicates for sample 0"),
            ([2, 5], ValueError, "expected 0 to 4"),
            ([True], ValueError, "bool"),
            ([[2, 3]], ValueError, "expected one per sample"),
            ([[2], [3, 4]], ValueError, "as many for every sample"),
        ],
    )
    def test_finer_cam_checks_what_it_compares_with(self, net, comparison, error, match):
        with FinerCAM(net, "act2") as extractor, pytest.raises(error, match=match):
            extractor([0, 1], net(X), comparison)

    def test_finer_cam_checks_scores(self, net):
        with FinerCAM(net, "act2") as extractor:
            scores = net(X)
            for given, error, match in (
                (None, ValueError, "scores is required by FinerCAM"),
                ([[1.0]], TypeError, "scores must be a tensor"),
                (scores[:, :1], ValueError, "at least one comparison class"),
            ):
                with pytest.raises(error, match=match):
                    extractor(0, given)
            with pytest.raises(ValueError, match="does not support arbitrary output targets"):
                extractor(0, scores, targets=lambda output: output[0])

    def test_legrad_checks_its_options(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        for options, error, match in (
            ({"target_layer": []}, ValueError, "at least one explicit target block"),
            ({"prefix_tokens": 1.0}, TypeError, "prefix_tokens must be an integer"),
            ({"prefix_tokens": -1}, ValueError, "prefix_tokens must be non-negative"),
            ({"grid_shape": 4}, TypeError, "a tuple of two integers"),
            ({"grid_shape": (0, 4)}, ValueError, "dimensions must be positive"),
            ({"score_projection": 3}, TypeError, "score_projection is a int"),
            ({}, ValueError, "no last normalization and classifier"),
        ):
            with pytest.raises(error, match=match):
                LeGrad(model, **{"target_layer": "0", **options})


class TestSubclasses:
    def test_weights_of_ones_own(self, net):
        class Positive(GradCAM):
            def _get_weights(self, class_idx, scores, **kwargs):
                return [weights.clamp_min(0) for weights in super()._get_weights(class_idx, scores, **kwargs)]

        class ByHand(_GradCAM):
            def _get_weights(self, class_idx, scores, **kwargs):
                self._backprop(scores, class_idx, **kwargs)
                return [g.mean((2, 3)).clamp_min(0) for g in self.hook_g]

        with camfast.capture(net, "act2") as seen:
            net(X)[:, 1].sum().backward()
        net.zero_grad(set_to_none=True)
        weights = seen.gradients["act2"].mean((2, 3), keepdim=True).clamp_min(0)
        expected = [(weights * seen.activations["act2"]).sum(1).relu()]
        for method in (Positive, ByHand):
            with method(net, "act2") as extractor:
                close(extractor(1, net(X), False), expected)
                with torch.no_grad():
                    close(extractor(1, net(X), False), expected)
                assert repr(extractor) == f"{method.__name__}(target_layer=['act2'])"

    def test_weights_of_places_and_negative_maps(self, net):
        class Plain(_CAM):
            def _get_weights(self, class_idx, *_, **kwargs):
                return [torch.full_like(maps, -1.0) if class_idx == 1 else maps.new_ones(1, 16) for maps in self.hook_a]

        with Plain(net, "act2") as extractor, torch.no_grad():
            net(X)
            total = extractor.hook_a[0].sum(1)
            close(extractor(1, normalized=False), [-total])
            close(extractor(0, normalized=False), [total])

    @pytest.mark.parametrize("method", [GradCAM, XGradCAM, LayerCAM, GradCAMpp])
    def test_weights_of_a_method_make_its_maps(self, net, method):
        with method(net, "act2") as extractor:
            scores = net(X)
            (weights,) = extractor._get_weights(1, scores, retain_graph=True)
            weights = weights if weights.dim() == 4 else weights[:, :, None, None]
            expected = (weights * extractor.hook_a[0]).sum(1).relu()
            close(extractor(1, scores, False), [expected])

    def test_maps_are_normalized_as_asked(self):
        for shape, dimensions in (((4, 5), None), ((3, 4, 5), 2), ((2, 3, 4, 5), 3)):
            maps = _CAM._normalize(torch.rand(shape), dimensions)
            places = maps.flatten(maps.dim() - (dimensions or len(shape) - 1)) if len(shape) > 2 else maps
            assert (places.amin(-1) == 0).all()
            assert (places.amax(-1) == 1).all()


def test_representations_are_those_of_torchcam():
    model = resnet18().eval()
    options = {"target_layer": "layer4"}
    for extractor, expected in (
        (GradCAM(model, **options), "GradCAM(target_layer=['layer4'])"),
        (SmoothGradCAMpp(model, **options), "SmoothGradCAMpp(target_layer=['layer4'], num_samples=4, std=0.3)"),
        (ScoreCAM(model, **options), "ScoreCAM(batch_size=32)"),
        (SSCAM(model, **options), "SSCAM(batch_size=32, num_samples=35, std=2.0)"),
        (ISCAM(model, **options), "ISCAM(batch_size=32)"),
        (
            FinerCAM(model, base_method=LayerCAM, **options),
            "FinerCAM(base_method=LayerCAM, target_layer=['layer4'], gamma=0.6, num_references=3)",
        ),
        (
            RefineCAM(model, ["layer3", "layer4"]),
            "RefineCAM(base_method=GradCAMpp, target_layer=['layer3', 'layer4'])",
        ),
    ):
        assert repr(extractor) == expected
        assert extractor.model is model
