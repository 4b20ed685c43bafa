"""camfast.compat.torchcam: overlays, metrics, explanations of one image, the README of torchcam, and what is not there."""

import functools
import importlib.metadata
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchcam.explain
import torchcam.methods
import torchcam.metrics
import torchcam.utils
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Wrapped
from PIL import Image
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

import camfast.compat.torchcam
from camfast.compat.torchcam import explain, methods, metrics, utils

X = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(3))
softmax = functools.partial(torch.softmax, dim=-1)


@pytest.fixture
def net():
    torch.manual_seed(5)
    model = PooledNet().eval()
    model.head.weight.data.mul_(8)
    return model


class TestOverlay:
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize(("colormap", "alpha"), [("jet", 0.7), ("viridis", 0.0), (plt.get_cmap("magma"), 0.35)])
    def test_is_that_of_torchcam(self, mode, colormap, alpha):
        rng = np.random.default_rng(0)
        img = Image.fromarray(rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)).convert(mode)
        mask = Image.fromarray(rng.random((5, 7), dtype=np.float32))
        ours = utils.overlay_mask(img, mask, colormap, alpha)
        theirs = torchcam.utils.overlay_mask(img, mask, colormap, alpha)
        assert (ours.mode, ours.size) == ("RGB", (53, 37))
        assert np.array_equal(ours, theirs)

    def test_a_mask_of_whole_numbers_is_hot_at_255(self):
        """torchcam squares them in eight bits, so that 255 is as cold as 1."""
        black = Image.new("RGB", (4, 4))
        levels = [np.full((4, 4), value, dtype=np.uint8) for value in (0, 255)]
        cold, hot = (np.asarray(utils.overlay_mask(black, Image.fromarray(level), alpha=0.5)) for level in levels)
        assert cold[0, 0].tolist() == [0, 0, 63]  # half of jet's dark blue, 127
        assert hot[0, 0].tolist() == [63, 0, 0]

    def test_names_what_is_wrong(self):
        img, mask = Image.new("RGB", (4, 4)), Image.new("F", (2, 2))
        with pytest.raises(TypeError, match="img is a ndarray"):
            utils.overlay_mask(np.zeros((4, 4, 3)), mask)
        with pytest.raises(TypeError, match="mask is a Tensor"):
            utils.overlay_mask(img, torch.zeros(2, 2))
        for alpha in (1, -0.1, 1.0, "0.5", True):
            with pytest.raises(ValueError, match="alpha is expected to be a number from 0 to less than 1"):
                utils.overlay_mask(img, mask, alpha=alpha)
        with pytest.raises(ValueError, match="img has mode 'RGBA'"):
            utils.overlay_mask(img.convert("RGBA"), mask)


def summaries(name, model, layers, updates, logits_fn=softmax, method="GradCAM", **options):
    """What the metrics of the two libraries say of the same batches."""
    found = []
    for library, judges in ((torchcam.methods, torchcam.metrics), (methods, metrics)):
        with getattr(library, method)(model, layers) as extractor:
            metric = getattr(judges, name)(extractor, logits_fn, **options)
            for args, kwargs in updates:
                metric.update(*args, **kwargs)
            found.append((metric.summary(), metric.total, metric.nan_count))
    (theirs, *counts), (ours, *our_counts) = found
    assert counts == our_counts
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-4)


class TestMetrics:
    @pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "ScoreCAM"])
    @pytest.mark.parametrize("name", ["ClassificationMetric", "DeletionInsertionMetric"])
    def test_are_those_of_torchcam(self, net, name, method):
        updates = [
            ((X,), {}),
            ((X[:1],), {"class_idx": 2}),
            ((X[:2], [1, 3]), {}),
            ((X[:2],), {"targets": lambda output: output[1]}),
            ((X[:2],), {"targets": [lambda output: output[1], lambda output: output[2]]}),
        ]
        summaries(name, net, ["act2", "act"], updates, method=method)

    def test_of_logits_are_those_of_torchcam(self, net):
        net.head.bias.data += 20
        summaries("ClassificationMetric", net, "act2", [((X,), {})], None)

    @pytest.mark.parametrize("steps", [1, 7, 20, 1000])
    def test_of_any_number_of_steps_are_those_of_torchcam(self, net, steps):
        summaries("DeletionInsertionMetric", net, "act2", [((X,), {})], steps=steps, batch_size=5)

    @pytest.mark.parametrize(
        "baseline", [torch.tensor(0.5), torch.ones(3, 1, 1), lambda x: x.mean((2, 3), keepdim=True)]
    )
    def test_of_other_baselines_are_those_of_torchcam(self, net, baseline):
        summaries("DeletionInsertionMetric", net, "act2", [((X,), {})], baseline=baseline)

    def test_of_an_output_with_one_entry_a_sample_are_those_of_torchcam(self, net):
        model = Wrapped(net, lambda output: [{"logits": row.softmax(0)} for row in output])
        updates = [((X,), {"targets": lambda entry: entry["logits"][1]})]
        for name in ("ClassificationMetric", "DeletionInsertionMetric"):
            summaries(name, model, "inner.act2", updates, None)

    @pytest.mark.parametrize("how", ["frozen", "no_grad", "inference_mode", "training"])
    def test_frozen_models_and_modes_change_nothing(self, net, how):
        def judged():
            with methods.GradCAM(net, "act2") as extractor:
                metric = metrics.ClassificationMetric(extractor, softmax)
                metric.update(X)
                return metric.summary()

        expected = judged()
        net.requires_grad_(how != "frozen").train(how == "training")
        before = fingerprint(net)
        with getattr(torch, how)() if hasattr(torch, how) else torch.enable_grad():
            assert judged() == expected
        assert_same(before, fingerprint(net))

    def test_a_sample_that_is_not_finite_is_left_out_and_counted(self, net):
        x = X.clone()
        x[1, 0, 0, 0] = torch.nan
        for name in ("ClassificationMetric", "DeletionInsertionMetric"):
            with methods.GradCAM(net, "act2") as extractor:
                metric, other = (getattr(metrics, name)(extractor, softmax) for _ in range(2))
                metric.update(x)
                other.update(X[[0, 2]])
                assert (metric.total, metric.nan_count) == (2, 1)
                assert metric.summary() == pytest.approx(other.summary(), abs=1e-6)
                metric.reset()
                assert (metric.total, metric.nan_count) == (0, 0)

    def test_a_score_without_a_share_to_lose_is_warned_of(self, net):
        net.head.bias.data -= 100
        with (
            methods.GradCAM(net, "act2") as extractor,
            pytest.warns(RuntimeWarning, match="means nothing; give logits_fn"),
        ):
            metrics.ClassificationMetric(extractor).update(X)

    def test_name_what_is_wrong(self, net):
        with methods.GradCAM(net, "act2") as extractor:
            metric = metrics.ClassificationMetric(extractor, softmax)
            with pytest.raises(AssertionError, match="you need to update the metric"):
                metric.summary()
            with pytest.raises(ValueError, match="either class_idx or targets, not both"):
                metric.update(X, 1, targets=lambda output: output[1])
            with pytest.raises(ValueError, match="class 5; expected 0 to 4"):
                metric.update(X, 5)
            with pytest.raises(ValueError, match="2 entries for a batch of 3"):
                metric.update(X, [1, 2])
            for options, error, match in (
                ({"steps": 0}, ValueError, "steps must be positive"),
                ({"steps": 2.0}, TypeError, "steps must be an integer"),
                ({"batch_size": True}, TypeError, "batch_size must be an integer"),
                ({"baseline": "zero"}, TypeError, "a tensor, a callable, or None"),
            ):
                with pytest.raises(error, match=match):
                    metrics.DeletionInsertionMetric(extractor, **options)
            with pytest.raises(ValueError, match="must be broadcastable"):
                metrics.DeletionInsertionMetric(extractor, softmax, baseline=torch.zeros(7)).update(X)
            with pytest.raises(TypeError, match="baseline callable must return a tensor"):
                metrics.DeletionInsertionMetric(extractor, softmax, baseline=lambda x: 0).update(X)


class TestExplain:
    def test_is_that_of_torchcam(self, net, tmp_path):
        options = dict(expected_class_idx=1, class_names=list("abcde"), target_layer=["act2", "act"])
        theirs = torchcam.explain.explain(net, X[:1], **options)
        ours = explain.explain(net, X[:1], **options)
        for name in (
            "predicted_class_idx",
            "expected_class_idx",
            "method",
            "target_layers",
            "model",
            "input_shape",
            "class_names",
        ):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.logits.equal(theirs.logits)
        assert list(ours.cams) == list(theirs.cams)
        for category, maps in ours.cams.items():
            for one, other in zip(maps, theirs.cams[category], strict=True):
                assert (one - other).abs().max() <= 1e-4
        image = Image.fromarray(np.full((20, 24, 3), 90, dtype=np.uint8))
        saved = [made.save(tmp_path / name, image) for made, name in ((theirs, "theirs"), (ours, "ours"))]
        assert sorted(p.name for p in saved[0].iterdir()) == sorted(p.name for p in saved[1].iterdir())
        manifests = [json.loads((directory / "manifest.json").read_text()) for directory in saved]
        assert manifests[1]["versions"].pop("camfast") == camfast.__version__
        assert manifests[0] == manifests[1]

    def test_finds_a_layer_and_takes_methods_with_a_map_of_all_layers(self, tmp_path):
        assert explain.explain(resnet18(num_classes=4).eval(), torch.randn(1, 3, 64, 64)).target_layers == ("layer4",)
        vit = VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=4).eval()
        made = explain.explain(
            vit, torch.randn(1, 3, 32, 32), method=methods.LeGrad, target_layer=list(vit.encoder.layers)
        )
        assert [maps.shape for maps in made.cams[made.predicted_class_idx]] == [(4, 4)]
        manifest = json.loads((made.save(tmp_path / "vit", Image.new("RGB", (32, 32))) / "manifest.json").read_text())
        (artifact,) = manifest["classes"][str(made.predicted_class_idx)]["artifacts"]
        assert artifact["target_layers"] == list(made.target_layers)

    def test_runs_once_in_any_mode_and_leaves_no_trace(self, net):
        expected = explain.explain(net, X[:1], target_layer="act2")
        runs = []
        net.register_forward_hook(lambda *_: runs.append(1))
        net.stem.weight.grad = torch.ones_like(net.stem.weight)
        before = fingerprint(net)
        with torch.inference_mode():
            made = explain.explain(net, X[:1], target_layer="act2", expected_class_idx=0)
        assert len(runs) == 1
        assert made.cams[made.predicted_class_idx][0].equal(expected.cams[made.predicted_class_idx][0])
        assert_same(before, fingerprint(net))

    def test_takes_away_what_was_not_saved_to_the_end(self, net, tmp_path):
        made = explain.explain(net, X[:1], target_layer="act2")
        with pytest.raises(ValueError, match="alpha"):
            made.save(tmp_path / "new", Image.new("RGB", (4, 4)), alpha=2)
        assert not (tmp_path / "new").exists()
        with pytest.raises(FileExistsError):
            made.save(tmp_path, Image.new("RGB", (4, 4)))
        with pytest.raises(TypeError, match="PIL image"):
            made.save(tmp_path / "new", np.zeros((4, 4, 3)))

    @pytest.mark.parametrize(
        ("x", "options", "error", "match"),
        [
            (None, {}, TypeError, "input_tensor is a NoneType"),
            (X, {}, ValueError, r"shape \(1, channels, height, width\)"),
            (X[:1].byte(), {}, ValueError, "floating-point"),
            (X[:1], {"expected_class_idx": "1"}, TypeError, "an integer or None"),
            (X[:1], {"expected_class_idx": 5}, ValueError, "outside the model output range, 0 to 4"),
            (X[:1], {"method": torch.nn.Module}, TypeError, "an extractor class"),
            (X[:1], {"method_kwargs": []}, TypeError, "a mapping or None"),
            (X[:1], {"method_kwargs": {"target_layer": "act2"}, "target_layer": None}, ValueError, "directly"),
            (X[:1], {"class_names": ["a"]}, ValueError, "class_names has 1 entries"),
            (X[:1], {"class_names": [*"abcd", 3]}, TypeError, "every class name must be a string"),
            (X[:1] * torch.nan, {}, ValueError, "non-finite logits"),
        ],
    )
    def test_names_what_is_wrong(self, net, x, options, error, match):
        with pytest.raises(error, match=match):
            explain.explain(net, x, **{"target_layer": "act2", **options})

    def test_needs_a_model_in_evaluation_mode_with_logits(self, net):
        with pytest.raises(TypeError, match="model is a NoneType"):
            explain.explain(None, X[:1])
        with pytest.raises(ValueError, match="evaluation mode"):
            explain.explain(PooledNet(), X[:1])
        with pytest.raises(TypeError, match="the model puts out a tuple"):
            explain.explain(Wrapped(net, lambda o: (o, o)).eval(), X[:1], target_layer="inner.act2")
        with pytest.raises(ValueError, match=r"the model puts out \[5\]"):
            explain.explain(Wrapped(net, lambda o: o[0]).eval(), X[:1], target_layer="inner.act2")


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["", ".methods", ".methods.activation", ".methods.gradient", ".methods.core", ".metrics", ".utils", ".explain"],
    )
    def test_everything_that_torchcam_exports_is_there(self, name):
        theirs = importlib.import_module(f"torchcam{name}")
        ours = importlib.import_module(f"camfast.compat.torchcam{name}")
        own = [a for a, value in vars(theirs).items() if getattr(value, "__module__", "") == theirs.__name__]
        for attribute in getattr(theirs, "__all__", [a for a in own if not a.startswith("_")]):
            assert hasattr(ours, attribute), attribute

    def test_the_arguments_of_every_extractor_are_those_of_torchcam(self):
        import inspect

        for name in (
            "CAM",
            "ScoreCAM",
            "SSCAM",
            "ISCAM",
            "GradCAM",
            "GradCAMpp",
            "SmoothGradCAMpp",
            "XGradCAM",
            "LayerCAM",
        ):
            theirs, ours = (
                inspect.signature(getattr(library, name).__init__) for library in (torchcam.methods, methods)
            )
            plain = {a: p.default for a, p in theirs.parameters.items() if p.kind is not p.VAR_KEYWORD}
            own = {a: p.default for a, p in ours.parameters.items() if p.kind is not p.VAR_KEYWORD}
            assert list(own.items())[: len(plain)] == list(plain.items()), name
        for name in ("RefineCAM", "FinerCAM", "LeGrad"):
            theirs, ours = (
                inspect.signature(getattr(library, name).__init__) for library in (torchcam.methods, methods)
            )
            assert list(ours.parameters) == list(theirs.parameters), name
        for name in ("__call__", "compute_cams"):
            for method in ("GradCAM", "RefineCAM", "FinerCAM"):
                theirs, ours = (
                    inspect.signature(getattr(getattr(library, method), name))
                    for library in (torchcam.methods, methods)
                )
                assert list(ours.parameters) == list(theirs.parameters), (method, name)

    def test_what_is_not_there_is_named_with_what_is(self):
        with pytest.raises(
            AttributeError, match="camfast.compat.torchcam.methods does not provide 'GradCam'; did you mean GradCAM"
        ):
            methods.GradCam  # noqa: B018
        with pytest.raises(AttributeError, match="does not provide 'overlay'; did you mean overlay_mask"):
            utils.overlay  # noqa: B018
        with pytest.raises(
            ImportError, match="does not provide 'ClassificationMetrics'; did you mean ClassificationMetric"
        ):
            from camfast.compat.torchcam.metrics import ClassificationMetrics  # noqa: F401


def readme_blocks():
    text = importlib.metadata.metadata("torchcam").get_payload()
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)
    return [block for block in blocks if "urlretrieve" not in block]  # which fetches a photo, and weights


def test_the_examples_of_the_readme_run_with_the_import_changed(monkeypatch):
    monkeypatch.setattr(plt, "show", plt.close)
    blocks = readme_blocks()
    assert len(blocks) == 4
    img = torch.randint(256, (3, 64, 80), dtype=torch.uint8)
    space = {"input_tensor": img / 255, "img": img}
    for block in blocks:
        code = block.replace("from torchcam", "from camfast.compat.torchcam")
        exec(code.replace('weights=get_model_weights("resnet18").DEFAULT', "weights=None"), space)
    assert space["activation_map"][0].shape == (1, 2, 3)
    assert space["result"].size == (80, 64)
    space["cam_extractor"].remove_hooks()
