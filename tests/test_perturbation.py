"""Score-CAM and its kin, Ablation-CAM, Recipro-CAM: against their formulas in float64, and against the peers."""

import functools

import numpy as np
import pytest
import torch
import tqdm
from fingerprint import assert_same, fingerprint
from formula_methods import ablation_cam, recipro_cam, score_cam, stretched, upsampled
from nets import CifarNet, PooledNet
from torch import nn
from torchvision.models import resnet18

import camfast
from camfast.methods import ISCAM, SSCAM, AblationCAM, ReciproCAM, ScoreCAM

X = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(3))
SIZE = (20, 24)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(5)
    model = PooledNet().eval()
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


def features(net, x):
    return net.act2(net.conv(net.act(net.norm(net.stem(x)))))


def rest(net, activations):
    return net.head(activations.mean((2, 3)))


def close(ours, theirs, within=1e-5):
    assert (ours.double() - theirs.double()).abs().max() <= within


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, disable=True))


class TestScoreCAM:
    @torch.no_grad()
    def test_is_the_formula(self, net):
        heatmaps = ScoreCAM(net, "act2")(X, [1, 3])
        for i, c in enumerate((1, 3)):
            expected = score_cam(lambda image, c=c: net(image[None])[0, c], X[i], features(net, X[i : i + 1])[0])
            close(heatmaps[i], expected)

    @torch.no_grad()
    def test_ss_cam_without_noise_is_score_cam(self, net):
        close(SSCAM(net, "act2", num_samples=2, std=0.0)(X, 1), ScoreCAM(net, "act2")(X, 1).double())

    @torch.no_grad()
    def test_is_cam_is_the_formula(self, net):
        heatmaps = ISCAM(net, "act2", num_samples=3)(X, 2)
        for i in range(2):
            expected = score_cam(
                lambda image: net(image[None])[0, 2],
                X[i],
                features(net, X[i : i + 1])[0],
                lambda masks: [masks * (1 / 3), masks * (1 / 3 + 2 / 3), masks * (1 / 3 + 2 / 3 + 1)],
            )
            close(heatmaps[i], expected)

    def test_ss_cam_repeats_itself_and_depends_on_the_seed(self, net):
        first, again, other = (SSCAM(net, "act2", num_samples=2, seed=seed)(X, 1) for seed in (4, 4, 5))
        assert first.equal(again)
        assert (first - other).abs().max() > 1e-3

    def test_ss_cam_leaves_the_random_numbers_of_the_process_alone(self, net):
        cam = SSCAM(net, "act2", num_samples=2)
        cam(X, 1)
        torch.manual_seed(9)
        expected = torch.rand(3)
        torch.manual_seed(9)
        cam(X, 1)
        assert torch.rand(3).equal(expected)

    @pytest.mark.parametrize("method", [ScoreCAM, functools.partial(SSCAM, num_samples=2), ISCAM])
    @pytest.mark.parametrize("batch_size", [1, 5, 1000])
    def test_how_many_run_together_changes_nothing(self, net, method, batch_size):
        close(method(net, "act2", batch_size=batch_size)(X, 1), method(net, "act2")(X, 1).double())

    def test_channels_without_contrast_share_a_pass(self, net):
        class Flat(nn.Module):
            def forward(self, x):
                x = x.clone()
                x[:, 2:7] = 0
                return x

        model = nn.Sequential(net.stem, net.norm, net.act, net.conv, net.act2, Flat(), nn.Flatten(2)).eval()
        head = net.head
        seen = []

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(*list(model)[:-1])
                self.head = head

            def forward(self, x):
                seen.append(len(x))
                return self.head(self.body(x).mean((2, 3)))

        whole = Model().eval()
        cam = ScoreCAM(whole, "body", optimize="none")
        cam(X, 1)
        seen.clear()
        heatmaps = cam(X, 1)
        assert sum(seen) == 2 + 2 * (16 - 5 + 1)  # the images, their live channels, and one for the others
        with torch.no_grad():
            for i in range(2):
                maps = whole.body(X[i : i + 1])[0]
                close(heatmaps[i], score_cam(lambda image: whole(image[None])[0, 1], X[i], maps))

    def test_several_classes_from_the_same_passes(self, net):
        together = ScoreCAM(net, "act2").explain(X, [[1, 3], [0, 2]])
        assert together.heatmaps.shape == (2, 2, 20, 24)
        for k in range(2):
            close(together.heatmaps[:, k], ScoreCAM(net, "act2")(X, [[1, 0], [3, 2]][k]).double())

    def test_a_callable_scores_each_of_its_sample(self, net):
        by_callable = ScoreCAM(net, "act2")(X, [lambda o: o[1], lambda o: o[3]])
        close(by_callable, ScoreCAM(net, "act2")(X, [1, 3]).double())

    @torch.no_grad()
    def test_torchcam_but_for_the_order_of_its_masks(self, net):
        from torchcam.methods import ISCAM as TheirISCAM
        from torchcam.methods import ScoreCAM as TheirScoreCAM

        class AsTheirs(ScoreCAM):
            """They stretch the channel before it is interpolated, the paper after."""

            def _masks(self, channels, size):
                return upsampled(stretched(channels), size).float()

        class AsTheirsIntegrated(ISCAM):
            _masks = AsTheirs._masks

        for ours, theirs in ((AsTheirs, TheirScoreCAM), (AsTheirsIntegrated, TheirISCAM)):
            with theirs(net, "act2", input_shape=(3, *SIZE)) as peer:
                net(X)
                maps = peer([1, 3])[0]
            close(ours(net, "act2")(X, [1, 3]), stretched(upsampled(maps, SIZE)), 1e-4)

    def test_pytorch_grad_cam_but_for_the_corners_of_its_masks(self, net, silent):
        from pytorch_grad_cam import ScoreCAM as Theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        class AsTheirs(ScoreCAM):
            """They align the corners of the masks, which nothing else of theirs does."""

            def _masks(self, channels, size):
                aligned = nn.functional.interpolate(channels[:, None], size, mode="bilinear", align_corners=True)
                return stretched(aligned[:, 0])

        theirs = Theirs(net, [net.act2])(X, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
        close(AsTheirs(net, "act2")(X, [1, 3]), torch.from_numpy(theirs), 1e-4)


class TestAblationCAM:
    @torch.no_grad()
    def test_is_the_formula(self, net):
        heatmaps = AblationCAM(net, "act2")(X, [1, 3])
        for i, c in enumerate((1, 3)):
            maps = features(net, X[i : i + 1])[0]
            close(heatmaps[i], ablation_cam(lambda a, c=c: rest(net, a[None])[0, c], maps, SIZE))

    @torch.no_grad()
    def test_of_a_layer_in_the_middle(self, net):
        heatmaps = AblationCAM(net, "act")(X, [1, 3])
        for i, c in enumerate((1, 3)):
            maps = net.act(net.norm(net.stem(X[i : i + 1])))[0]
            close(heatmaps[i], ablation_cam(lambda a, c=c: rest(net, net.act2(net.conv(a[None])))[0, c], maps, SIZE))

    def test_pytorch_grad_cam(self, silent):
        from pytorch_grad_cam import AblationCAM as Theirs
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        model, x = resnet18(num_classes=10).eval(), torch.randn(2, 3, 48, 64)
        ours = AblationCAM(model, "layer1")(x, [1, 3])
        theirs = Theirs(model, [model.layer1])(x, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
        close(ours, torch.from_numpy(theirs), 1e-4)

    def test_what_follows_a_layer_inside_a_residual_block(self):
        model, x = resnet18(num_classes=10).eval(), torch.randn(2, 3, 32, 32)
        traced = AblationCAM(model, "layer4.1.conv1")
        hooked = AblationCAM(model, "layer4.1.conv1")
        heatmaps = traced(x, 3)
        rest = hooked._made  # not planned yet
        assert rest is None
        hooked(x, 3)
        hooked._made.runner.rest("layer4.1.conv1")._graphs = None
        close(hooked(x, 3), heatmaps.double(), 1e-4)

    def test_only_what_follows_the_layer_runs_again(self, net):
        runs = []
        handle = net.stem.register_forward_hook(lambda *_: runs.append(1))
        try:
            cam = AblationCAM(net, "act2")
            cam(X, 1)
            runs.clear()
            cam(X, 1)
        finally:
            handle.remove()
        assert len(runs) == 1

    def test_a_model_that_cannot_be_traced_runs_as_a_whole(self, net):
        class Depends(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net

            def forward(self, x):
                return self.inner(x) if x.sum() < 1e9 else x

        close(AblationCAM(Depends().eval(), "inner.act2")(X, [1, 3]), AblationCAM(net, "act2")(X, [1, 3]).double())

    @pytest.mark.parametrize("reads_values", [False, True])
    def test_a_layer_that_runs_several_times_counts_with_its_last_run(self, net, reads_values):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.act = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 9, 3), nn.ReLU()
                self.head = nn.Linear(9, 4)

            def forward(self, x):
                samples = x.size(0)
                if reads_values and x.sum() > 1e9:
                    return x
                x = self.act(self.second(self.act(self.first(x))))
                return self.head(x.mean((2, 3)).view(samples, -1))

        torch.manual_seed(2)
        model = Shared().eval()
        with torch.no_grad():
            model.head.weight.mul_(8)
        heatmaps = AblationCAM(model, "act", batch_size=3)(X, [1, 3])
        for i, c in enumerate((1, 3)):
            with torch.no_grad():
                maps = model.act(model.second(model.act(model.first(X[i : i + 1]))))[0]
                expected = ablation_cam(lambda a, c=c: model.head(a.mean((1, 2)))[c], maps, SIZE)
            close(heatmaps[i], expected, 1e-4)

    def test_several_classes_and_callables(self, net):
        together = AblationCAM(net, "act2")(X, [[1, 3], [0, 2]])
        close(together[:, 1], AblationCAM(net, "act2")(X, [3, 2]).double())
        close(AblationCAM(net, "act2")(X, lambda o: o[1]), AblationCAM(net, "act2")(X, 1).double())


class TestReciproCAM:
    @pytest.mark.parametrize("gaussian", [True, False])
    @torch.no_grad()
    def test_is_the_formula(self, net, gaussian):
        heatmaps = ReciproCAM(net, "act2", gaussian=gaussian)(X, [1, 3])
        for i, c in enumerate((1, 3)):
            maps = features(net, X[i : i + 1])[0]
            expected = recipro_cam(lambda a, c=c: rest(net, a[None]).softmax(1)[0, c], maps, SIZE, gaussian)
            close(heatmaps[i], expected, 1e-4)

    @torch.no_grad()
    def test_a_place_of_tokens_is_taken_away_and_the_class_token_stays(self):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches = nn.Conv2d(3, 8, 4, 4)
                self.layer = nn.Identity()
                self.head = nn.Linear(8, 3)

            def forward(self, x):
                tokens = self.patches(x).flatten(2).transpose(1, 2)
                tokens = self.layer(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
                return self.head(tokens.mean(1))

        model = Tokens().eval()
        heatmaps = ReciproCAM(model, "layer", lambda t: t[:, 1:].mT.reshape(len(t), 8, 5, 6), gaussian=False)(X, 2)
        for i in range(2):
            tokens = model.patches(X[i : i + 1]).flatten(2)[0].T
            first = tokens.mean(0)
            layer = torch.stack([model.head((first + token) / 31).softmax(0)[2] for token in tokens])
            close(heatmaps[i], stretched(upsampled(layer.reshape(1, 5, 6), SIZE))[0], 1e-4)

    def test_several_classes(self, net):
        together = ReciproCAM(net, "act2")(X, [[1, 3], [0, 2]])
        close(together[:, 1], ReciproCAM(net, "act2")(X, [3, 2]).double())


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM, ReciproCAM])
class TestAllOfThem:
    def test_several_layers_are_averaged(self, net, method):
        heatmaps = method(net, ["act", "act2"])(X, 1)
        layers = [method(net, name)(X, 1, size="layer") for name in ("act", "act2")]
        close(heatmaps, stretched(sum(upsampled(m, SIZE) for m in layers)))

    @pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "8"])
    def test_a_batch_size_that_is_none(self, net, method, wrong):
        with pytest.raises(ValueError, match=r"batch_size=.*; expected a whole number of at least 1, or None"):
            method(net, "act2", batch_size=wrong)

    def test_memory_that_does_not_suffice_halves_what_runs_together(self, net, method, monkeypatch):
        expected = method(net, "act2")(X, 1)
        conv = nn.functional.linear
        sizes = []

        def scarce(x, *args):
            sizes.append(len(x))
            if len(x) > 4:
                raise torch.OutOfMemoryError("no")
            return conv(x, *args)

        cam = method(net, "act2", optimize="none")
        cam(X, 1)
        monkeypatch.setattr(nn.functional, "linear", scarce)
        close(cam(X, 1), expected.double())
        assert max(sizes) > 4

    def test_shows_how_far_it_is(self, net, method, capsys):
        method(net, "act2")(X, 1)
        assert capsys.readouterr().err == ""

    def test_leaves_no_trace(self, method):
        model = CifarNet().train()
        before = fingerprint(model)
        method(model, "conv3")(torch.randn(2, 3, 32, 32), 1)
        assert_same(before, fingerprint(model))


def test_settings_say_what_a_method_was_made_with(net):
    settings = SSCAM(net, "act2", num_samples=7, std=0.5).settings
    assert settings["method"] == "SSCAM"
    assert {settings["num_samples"], settings["std"], settings["optimize"]} == {7, 0.5, "inference"}


@pytest.mark.parametrize("wrong", [0, True, 1.5])
def test_a_number_of_samples_that_is_none(net, wrong):
    for method in (SSCAM, ISCAM):
        with pytest.raises(ValueError, match="num_samples=.*; expected a whole number of at least 1"):
            method(net, "act2", num_samples=wrong)


@pytest.mark.parametrize("wrong", [-0.1, float("nan")])
def test_noise_that_is_none(net, wrong):
    with pytest.raises(ValueError, match="std=.*; expected a standard deviation of at least 0"):
        SSCAM(net, "act2", std=wrong)


def test_literal_numbers():
    """Two channels, a linear head: the score is 3 a + b, with a and b the means of the channels."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()
            self.head = nn.Linear(2, 1, bias=False)
            self.head.weight.data = torch.tensor([[3.0, 1.0]])

        def forward(self, x):
            return self.head(self.layer(x).mean((2, 3)))

    x = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 8.0]]]])  # means 1 and 2: the score is 5
    result = AblationCAM(Tiny().eval(), "layer").explain(x, 0, normalize=False)
    # Without the first channel the score is 2, without the second 3: weights 3/5 and 2/5.
    np.testing.assert_allclose(result.heatmaps[0], [[4 * 3 / 5, 0], [0, 8 * 2 / 5]], rtol=1e-6)
    assert camfast.METHODS["ablationcam"] is AblationCAM
