"""Metrics: numbers worked out by hand, invariants, and bad arguments."""

import functools
import math

import numpy as np
import pytest
import torch
from fingerprint import assert_same, fingerprint
from linear_nets import FOUR, SumNet, WeightedNet
from nets import FrozenBackbone, NormalizesInPlace, PooledNet, Raises, Wrapped
from torch import nn

import camfast
from camfast import metrics
from camfast.metrics.baselines import blurred

HEAT = FOUR[:, 0]
MODEL = SumNet()
SIGMOID = [1 / (1 + math.exp(-value)) for value in (10, 6, 3, 1, 0)]


class TestDeletion:
    def test_by_hand(self):
        found = metrics.deletion(MODEL, FOUR, HEAT, 0, steps=4, score="logit")
        assert found.curves.tolist() == [[10, 6, 3, 1, 0]]
        assert found.at.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert found.values.tolist() == [3.75]  # (10 / 2 + 6 + 3 + 1 + 0 / 2) / 4
        assert (found.mean, found.better, len(found)) == (3.75, "lower", 1)

    def test_insertion_by_hand(self):
        found = metrics.insertion(MODEL, FOUR, HEAT, 0, steps=4, score="logit", baseline="zero")
        assert found.curves.tolist() == [[0, 4, 7, 9, 10]]
        assert found.values.tolist() == [6.25]
        assert found.better == "higher"

    def test_the_coldest_first_is_worse(self):
        found = metrics.deletion(MODEL, FOUR, -HEAT, 0, steps=4, score="logit")
        assert found.curves.tolist() == [[10, 9, 7, 4, 0]]

    def test_steps_of_several_pixels(self):
        assert metrics.deletion(MODEL, FOUR, HEAT, 0, steps=2, score="logit").curves.tolist() == [[10, 3, 0]]
        # 4/3 and 8/3 pixels are rounded; the area is over what was really replaced.
        found = metrics.deletion(MODEL, FOUR, HEAT, 0, steps=3, score="logit")
        assert found.curves.tolist() == [[10, 6, 1, 0]]
        assert found.at.tolist() == [0, 0.25, 0.75, 1]
        assert found.values.tolist() == [(8 * 0.25) + (3.5 * 0.5) + (0.5 * 0.25)]

    def test_a_constant_heatmap_deletes_in_reading_order(self):
        found = metrics.deletion(MODEL, FOUR, torch.zeros(1, 2, 2), 0, steps=4, score="logit")
        assert found.curves.tolist() == [[10, 6, 3, 1, 0]]

    def test_the_probability_is_the_default_score(self):
        found = metrics.deletion(MODEL, FOUR, HEAT, 0, steps=4)
        torch.testing.assert_close(found.curves[0], torch.tensor(SIGMOID))
        own = metrics.deletion(MODEL, FOUR, HEAT, 0, steps=4, score=torch.sigmoid)
        torch.testing.assert_close(own.curves, found.curves)

    @pytest.mark.parametrize(
        ("baseline", "curve"),
        [
            ("zero", [10, 6, 3, 1, 0]),
            ("mean", [10, 8.5, 8, 8.5, 10]),
            (1, [10, 7, 5, 4, 4]),
            (0.5, [10, 6.5, 4, 2.5, 2]),
            (torch.tensor(1.0), [10, 7, 5, 4, 4]),
            (torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), [10, 7, 5, 3, 2]),
            (torch.ones(1, 1, 1, 1), [10, 7, 5, 4, 4]),
        ],
    )
    def test_baselines(self, baseline, curve):
        found = metrics.deletion(MODEL, FOUR, HEAT, 0, steps=4, score="logit", baseline=baseline)
        assert found.curves.tolist() == [curve]

    def test_the_blur_is_a_gaussian_that_keeps_the_mean_inside_and_constants(self):
        x = torch.zeros(1, 1, 31, 29)
        x[0, 0, 15, 14] = 1
        weights = np.exp(-0.5 * (np.arange(-5, 6) / 5) ** 2)
        weights /= weights.sum()
        expected = np.zeros((31, 29))
        expected[10:21, 9:20] = weights[:, None] * weights
        np.testing.assert_allclose(blurred(x)[0, 0], expected, atol=1e-7)
        torch.testing.assert_close(blurred(torch.full((1, 2, 3, 4), 7.0)), torch.full((1, 2, 3, 4), 7.0))
        found = metrics.deletion(MODEL, x, x[:, 0], 0, steps=1, score="logit", baseline="blur")
        torch.testing.assert_close(found.curves, torch.tensor([[1.0, 1.0]]))


class TestConfidence:
    def test_by_hand(self):
        x = FOUR.expand(4, -1, -1, -1)
        x = torch.cat([x, torch.tensor([[[[4.0, -2.0], [0.0, 0.0]]]])])
        maps = torch.tensor(
            [[[1, 1], [1, 1]], [[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0.0]]]
        )
        drop = metrics.average_drop(MODEL, x, maps, 0, score="logit")
        torch.testing.assert_close(drop.values, torch.tensor([0, 0.5, 0.6, 1, 0]))
        assert metrics.average_drop(MODEL, x, maps, 0, score="logit", relative=False).values.tolist() == [
            0,
            5,
            6,
            10,
            0,
        ]
        increase = metrics.increase_in_confidence(MODEL, x, maps, 0, score="logit")
        assert increase.values.tolist() == [0, 0, 0, 0, 1]
        assert (drop.better, increase.better) == ("lower", "higher")

    def test_a_loss_from_nothing_has_no_share(self):
        x = -FOUR
        drop = metrics.average_drop(MODEL, x, torch.zeros(1, 2, 2), 0, score="logit")
        assert drop.values.tolist() == [0]  # it rises from -10 to 0
        x = torch.tensor([[[[3.0, -4.0]]]])
        assert metrics.average_drop(MODEL, x, torch.tensor([[[0.0, 1.0]]]), 0, score="logit").values.isnan().all()

    def test_heatmaps_must_be_masks(self):
        for metric in (metrics.average_drop, metrics.increase_in_confidence):
            with pytest.raises(
                ValueError, match=r"heatmaps has values from -1 to 5; .* expects 0 to 1, .* normalize=True"
            ):
                metric(MODEL, FOUR, torch.tensor([[[-1.0, 5.0], [0, 0]]]))


class TestADCC:
    ONE = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])

    def test_by_hand(self):
        found = metrics.adcc(MODEL, FOUR, self.ONE, lambda x, targets: self.ONE, 0, score="logit")
        assert {name: part.tolist() for name, part in found.parts.items()} == {
            "coherency": [1],
            "complexity": [0.25],
            "drop": [pytest.approx(0.6)],
        }
        assert found.mean == pytest.approx(3 / (1 / 1 + 1 / 0.75 + 1 / 0.4))

    def test_complexity_is_the_mean_heat(self):
        assert metrics.complexity(self.ONE).values.tolist() == [0.25]
        assert metrics.complexity(np.zeros((2, 3, 3))).values.tolist() == [0, 0]
        assert metrics.complexity(torch.ones(1, 5, 7)).values.tolist() == [1]

    def test_coherency_is_the_correlation_with_what_the_masked_image_gives(self):
        seen = []

        def explainer(x, targets):
            seen.append((x, targets))
            return torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])

        found = metrics.coherency(MODEL, FOUR, self.ONE, explainer)
        assert found.values.tolist() == pytest.approx([0], abs=1e-6)
        assert seen[0][0].tolist() == [[[[4, 0], [0, 0]]]]
        assert seen[0][1].tolist() == [0]  # predicted for the whole image
        assert metrics.coherency(MODEL, FOUR, self.ONE, lambda x, t: torch.ones(1, 2, 2)).values.tolist() == [0.5]

    def test_one_bad_part_makes_all_bad(self):
        opposite = lambda x, targets: 1 - self.ONE  # noqa: E731
        assert metrics.adcc(MODEL, FOUR, self.ONE, opposite, 0).values.tolist() == pytest.approx([0], abs=1e-6)
        full = torch.ones(1, 2, 2)
        assert metrics.adcc(MODEL, FOUR, full, lambda x, t: full, 0).values.tolist() == [0]

    def test_arcc_by_hand(self):
        x = torch.tensor([[[[1.0, 2, 3], [4, 50, 6], [7, 8, 9]]]])
        heat = torch.zeros(1, 3, 3)
        heat[0, 1, 1] = 1
        score = lambda output: output / 1000  # noqa: E731
        found = metrics.arcc(MODEL, x, heat, lambda x, t: heat, 0, percentiles=(90,), noise=0, score=score)
        assert found.parts["road"].tolist() == pytest.approx([0.2025])  # see TestRoad.test_by_hand
        assert found.mean == pytest.approx(3 / (1 / 1 + 1 / (8 / 9) + 1 / 0.405))

    def test_an_explainer_is_a_callable(self):
        with pytest.raises(TypeError, match=r"explainer is a str; expected a callable .* such as camfast.GradCAM"):
            metrics.coherency(MODEL, FOUR, self.ONE, "gradcam")
        with pytest.raises(ValueError, match=r"heatmaps has shape \[2, 2\]; expected \[N, H, W\]"):
            metrics.complexity(self.ONE[0])


class TestSensitivity:
    def test_exact_contributions_correlate_perfectly(self):
        x = torch.randn(2, 1, 6, 6)
        found = metrics.sensitivity_n(MODEL, x, x[:, 0], 0, n=(1, 0.5, 35), subsets=20, score="logit")
        torch.testing.assert_close(found.curves, torch.ones(2, 3))
        assert found.at.tolist() == pytest.approx([1 / 36, 0.5, 35 / 36])
        found = metrics.sensitivity_n(MODEL, x, -x[:, 0], 0, n=(3,), subsets=20, score="logit")
        torch.testing.assert_close(found.values, -torch.ones(2))

    def test_squares_as_features(self):
        x = torch.randn(1, 1, 5, 7)
        found = metrics.sensitivity_n(MODEL, x, x[:, 0], 0, n=(2, 5), subsets=15, patch=3, score="logit")
        torch.testing.assert_close(found.values, torch.ones(1))
        assert found.at.tolist() == pytest.approx([2 / 6, 5 / 6])

    def test_what_is_constant_correlates_with_nothing(self):
        constant = metrics.sensitivity_n(MODEL, FOUR, torch.ones(1, 2, 2), 0, n=(2,), subsets=9, patch=1)
        assert constant.values.tolist() == [0]
        other = metrics.sensitivity_n(MODEL, FOUR, HEAT, 1, n=(2,), subsets=9, score="logit")
        assert other.values.tolist() == [0]  # that logit is always 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(n=()), r"n=\(\); expected several"),
            (dict(n=(4,)), r"n has 4; expected a whole number from 1 to 3, as there are 4 features"),
            (dict(n=(1.5,)), r"n has 1.5; expected"),
            (dict(n=("a",)), r"n has 'a'; expected whole numbers, or shares"),
            (dict(subsets=1), r"subsets=1; expected a whole number of at least 2"),
            (dict(patch=0), r"patch=0; expected a whole number of at least 1"),
            (dict(seed=-1), r"seed=-1; expected a whole number of at least 0"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            metrics.sensitivity_n(MODEL, FOUR, HEAT, **options)


class TestPointing:
    def at(self, *points, size=(40, 60)):
        maps = torch.zeros(len(points), *size)
        for index, (x, y) in enumerate(points):
            maps[index, y, x] = 1
        return maps

    def test_boxes_by_hand(self):
        maps = self.at((20, 20), (25, 10), (26, 10), (23, 24))
        boxes = [[10, 10, 20, 20]] * 4
        assert metrics.pointing_game(maps, boxes=boxes, tolerance=5).values.tolist() == [1, 1, 0, 1]  # 0, 5, 6, 5 off
        assert metrics.pointing_game(maps, boxes=boxes, tolerance=0).values.tolist() == [1, 0, 0, 0]
        assert metrics.pointing_game(maps, boxes=torch.tensor(boxes)).mean == 1

    def test_any_of_several_objects(self):
        maps = self.at((0, 0), (59, 39))
        boxes = [[[30, 30, 35, 35], [2, 0, 9, 9]], [[0, 0, 1, 1]]]
        assert metrics.pointing_game(maps, boxes=boxes, tolerance=2).values.tolist() == [1, 0]

    def test_masks_by_hand(self):
        maps = self.at((20, 20), (25, 10), (26, 10), (23, 24))
        masks = torch.zeros(4, 40, 60, dtype=torch.bool)
        masks[:, 10:21, 10:21] = True
        assert metrics.pointing_game(maps, masks=masks, tolerance=5).values.tolist() == [1, 1, 0, 1]
        assert metrics.pointing_game(maps, masks=masks.numpy().astype(np.uint8) * 255, tolerance=5).mean == 0.75

    def test_the_tolerance_of_the_paper(self):
        boxes = [[0, 0, 10, 10]] * 2
        assert metrics.pointing_game(self.at((25, 3), (26, 3)), boxes=boxes).values.tolist() == [1, 0]

    def test_heatmaps_of_another_size(self):
        maps = torch.zeros(1, 4, 6)
        maps[0, 3, 5] = 1
        assert metrics.pointing_game(maps, boxes=[[50, 30, 59, 39]], size=(40, 60), tolerance=0).mean == 1
        assert metrics.pointing_game(maps, boxes=[[5, 3, 5, 3]], tolerance=0).mean == 1
        masks = torch.zeros(1, 40, 60)
        masks[0, 30:, 50:] = 1
        assert metrics.pointing_game(maps, masks=masks, tolerance=0).mean == 1

    def test_a_constant_heatmap_points_nowhere_and_plateaus_begin_at_the_first(self):
        maps = torch.ones(2, 8, 8)
        maps[1, 0] = 0
        assert metrics.pointing_game(maps, boxes=[[0, 0, 0, 1]] * 2, tolerance=0).values.tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "boxes and masks say where the objects are; give one of them"),
            (dict(boxes=[[0, 0, 1, 1]], masks=torch.ones(1, 8, 8)), "give one of them"),
            (dict(boxes=[]), r"boxes has 0 entries for 1 heatmaps"),
            (dict(boxes=3), r"boxes has type int for 1 heatmaps"),
            (dict(boxes=[[]]), r"boxes\[0\] is empty; leave out"),
            (dict(boxes=["a"]), r"boxes\[0\]='a'; expected \[K, 4\] numbers"),
            (dict(boxes=[[1, 2, 3]]), r"boxes\[0\] has shape \[1, 3\]; expected \[K, 4\]"),
            (dict(boxes=[[5, 0, 1, 1]]), r"boxes\[0\] has a right or bottom edge before"),
            (dict(masks=torch.zeros(1, 8, 8)), r"masks\[0\] is empty"),
            (dict(masks=torch.zeros(2, 8, 8)), r"masks has shape \[2, 8, 8\] for 1 heatmaps"),
            (dict(boxes=[[0, 0, 1, 1]], tolerance=-1), r"tolerance=-1; expected a number of pixels"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            metrics.pointing_game(torch.ones(1, 8, 8), **options)

    def test_masks_are_tensors(self):
        with pytest.raises(TypeError, match="masks is a list; expected a tensor or an array"):
            metrics.pointing_game(torch.ones(1, 8, 8), masks=[[1]])


OPTIONS = {
    "deletion": dict(steps=5),
    "insertion": dict(steps=5),
    "road": dict(percentiles=(30, 70)),
    "arcc": dict(percentiles=(50,)),
    "sensitivity": dict(subsets=6, n=(0.3, 0.6)),
    "sanity": dict(layers=["head", "conv"]),
    "pointing": dict(boxes=[[2, 2, 9, 9]], tolerance=3),
}
NAMES = list(metrics.METRICS)


def evaluated(model, x, targets=None, names=NAMES, **options):
    explainer = camfast.GradCAM(model)
    given = {name: value for name, value in OPTIONS.items() if name in names}
    if "pointing" in names:
        given["pointing"] = dict(boxes=[[2, 2, 9, 9]] * len(x), tolerance=3)
    return metrics.evaluate(explainer, x, names, targets, options=given, **options)


class TestInvariants:
    @pytest.mark.parametrize("training", [True, False])
    def test_no_trace_in_the_model_nor_in_the_generators(self, training):
        model = PooledNet(inplace=True).train(training)
        model.norm.eval()
        model.stem.weight.requires_grad_(False)
        x = torch.randn(2, 3, 16, 16)
        model(x).sum().backward()
        before, drawn, image = fingerprint(model), torch.get_rng_state(), x.clone()
        evaluated(model, x)
        assert_same(before, fingerprint(model))
        assert torch.get_rng_state().equal(drawn)
        assert x.equal(image)

    def test_the_users_exception_comes_through_and_nothing_stays(self):
        model = Raises().train()
        before = fingerprint(model)
        for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
            with context, pytest.raises(KeyError, match="the user's own exception"):
                metrics.deletion(model, torch.randn(1, 3, 8, 8), torch.rand(1, 8, 8))
        assert_same(before, fingerprint(model))

    def test_a_batch_equals_its_samples(self):
        model, x = PooledNet().eval(), torch.randn(3, 3, 16, 16)
        heatmaps = torch.rand(3, 16, 16)
        whole = evaluated(model, x, heatmaps=heatmaps)
        for index in range(3):
            alone = evaluated(model, x[index : index + 1], heatmaps=heatmaps[index : index + 1])
            for name in NAMES:
                # Pixels of a new heatmap that are all but the same may change places.
                atol = 1e-3 if name == "sanity" else 1e-5
                torch.testing.assert_close(whole[name].values[index], alone[name].values[0], rtol=1e-4, atol=atol)

    def test_any_batch_size_gives_the_same(self):
        model, x = PooledNet().eval(), torch.randn(3, 3, 16, 16)
        names = [name for name in NAMES if name != "sanity"]
        whole = evaluated(model, x, names=names)
        for size in (1, 4, 1000):
            some = evaluated(model, x, names=names, batch_size=size)
            for name in names:
                torch.testing.assert_close(whole[name].values, some[name].values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    def test_under_any_grad_mode(self, context):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
        expected = evaluated(model, x)
        with context():
            found = evaluated(model, x * 1)
            for name in NAMES:
                assert not found[name].values.requires_grad
                torch.testing.assert_close(found[name].values, expected[name].values)

    def test_a_heatmap_that_is_not_finite_has_no_score_and_touches_no_other(self):
        model, x = PooledNet().eval(), torch.randn(3, 3, 16, 16)
        heatmaps = torch.rand(3, 16, 16)
        expected = evaluated(model, x, heatmaps=heatmaps)
        heatmaps[1, 3, 3], heatmaps[2, 0, 0] = math.nan, math.inf
        found = evaluated(model, x, heatmaps=heatmaps)
        for name in NAMES:
            assert found[name].values[1:].isnan().all(), name
            torch.testing.assert_close(found[name].values[0], expected[name].values[0], rtol=1e-4, atol=1e-5)
            assert found[name].mean == pytest.approx(float(found[name].values[0]))
        assert found.heatmaps[1:].isnan().all()

    def test_an_image_that_is_not_finite_has_no_score_and_touches_no_other(self):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
        heatmaps = torch.rand(2, 16, 16)
        expected = evaluated(model, x, heatmaps=heatmaps)
        x[1, 0, 5, 5] = math.nan
        found = evaluated(model, x, heatmaps=heatmaps)
        for name in ("deletion", "insertion", "drop", "increase", "road", "adcc", "arcc", "sensitivity"):
            assert found[name].values[1].isnan(), name
        for name in NAMES:
            torch.testing.assert_close(found[name].values[0], expected[name].values[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_precisions(self, dtype):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
        heatmaps = torch.rand(2, 16, 16)
        names = ["deletion", "insertion", "drop", "road", "sensitivity"]
        expected = evaluated(model, x, 1, names, heatmaps=heatmaps)
        found = evaluated(model.to(dtype), x.to(dtype), 1, names, heatmaps=heatmaps)
        for name in ("deletion", "insertion", "drop", "road"):
            assert found[name].values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(found[name].values.float(), expected[name].values, rtol=0, atol=0.02)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8])
    def test_heatmaps_as_arrays_of_any_type_and_size(self, dtype):
        heat = (np.arange(64).reshape(1, 8, 8) % 2).astype(dtype)
        x = torch.randn(1, 1, 16, 16)
        found = metrics.deletion(MODEL, x, heat, 0, steps=8)
        same = torch.nn.functional.interpolate(torch.tensor(heat)[:, None].float(), (16, 16), mode="bilinear")[:, 0]
        torch.testing.assert_close(found.values, metrics.deletion(MODEL, x, same, 0, steps=8).values)

    def test_one_channel_and_several_inputs(self):
        class Two(nn.Module):
            def forward(self, image, scale):
                return torch.stack([image.flatten(1).sum(1) * scale, 0 * scale], 1)

        x, scale = torch.cat([FOUR, FOUR]), torch.tensor([1.0, 3.0])
        for inputs in ((x, scale), dict(image=x, scale=scale)):
            found = metrics.deletion(Two(), inputs, HEAT.expand(2, -1, -1), 0, steps=4, score="logit", batch_size=3)
            assert found.curves.tolist() == [[10, 6, 3, 1, 0], [30, 18, 9, 3, 0]]
            types = []
            explainer = functools.partial(self.note_type, types)
            coherency = metrics.coherency(Two(), inputs, HEAT.expand(2, -1, -1) / 4, explainer)
            torch.testing.assert_close(coherency.values, torch.ones(2))
            assert types == [type(inputs)]

    @staticmethod
    def note_type(types, x, targets):
        types.append(type(x))
        return HEAT.expand(2, -1, -1)

    def test_a_model_that_changes_its_input_in_place(self):
        model, x = NormalizesInPlace().eval(), torch.rand(2, 3, 16, 16)
        image, heatmaps = x.clone(), torch.rand(2, 16, 16)
        clean = evaluated(model.inner, (x - 0.5) / 0.25, names=["deletion"], heatmaps=heatmaps)
        given = dict(steps=5, baseline=0.5)  # which becomes 0
        found = metrics.deletion(model, x, heatmaps, **given)
        torch.testing.assert_close(found.values, clean["deletion"].values)
        assert x.equal(image)

    @pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
    def test_other_models(self):
        x, heatmaps = torch.randn(2, 3, 12, 12), torch.rand(2, 12, 12)
        wrapped = Wrapped(PooledNet(), lambda output: {"logits": output}).eval()
        plain = metrics.deletion(wrapped.inner, x, heatmaps, steps=4)
        assert metrics.deletion(wrapped, x, heatmaps, steps=4, output="logits").values.equal(plain.values)
        scripted = torch.jit.trace(wrapped.inner, x)
        torch.testing.assert_close(metrics.deletion(scripted, x, heatmaps, steps=4).values, plain.values)
        assert metrics.deletion(nn.DataParallel(wrapped.inner), x, heatmaps, steps=4).values.equal(plain.values)
        assert metrics.deletion(FrozenBackbone(), x, heatmaps, steps=4).values.isfinite().all()

    def test_targets_of_every_kind(self):
        model, x, heatmaps = PooledNet().eval(), torch.randn(2, 3, 12, 12), torch.rand(2, 12, 12)
        predicted = model(x).argmax(1)
        run = lambda targets, **more: metrics.deletion(model, x, heatmaps, targets, steps=3, **more).values  # noqa: E731
        for targets in (predicted, predicted.tolist(), predicted.to(torch.int32)):
            assert run(targets).equal(run(None))
        functions = [lambda output, c=int(c): output[c] for c in predicted]
        torch.testing.assert_close(run(functions), run(None, score="logit"))
        torch.testing.assert_close(run(lambda output: output[1]), run(1, score="logit"))

    @pytest.mark.cuda
    def test_on_a_device_as_on_the_host(self):
        model, x = PooledNet().eval().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
        heatmaps = torch.rand(3, 16, 16)
        expected = evaluated(model, x, heatmaps=heatmaps)
        found = evaluated(model.cuda(), x.cuda(), heatmaps=heatmaps)
        for name in NAMES:
            assert found[name].values.is_cuda
            if name != "sanity":  # whose weights are drawn on the device
                torch.testing.assert_close(found[name].values.cpu(), expected[name].values, rtol=1e-4, atol=1e-4)

    def test_where_memory_runs_out_batches_are_halved(self):
        class Small(nn.Module):
            def forward(self, x):
                if len(x) > 2:
                    raise torch.OutOfMemoryError("of three")
                return MODEL(x)

        with pytest.warns(RuntimeWarning, match="out of memory with a batch of 4: scoring 2 images at a time"):
            found = metrics.deletion(Small(), FOUR, HEAT, 0, steps=4, score="logit")
        assert found.curves.tolist() == [[10, 6, 3, 1, 0]]


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            (("model", FOUR, HEAT), {}, TypeError, "model is a str; expected a torch.nn.Module"),
            ((MODEL, FOUR[0], HEAT), {}, ValueError, r"x has shape \[1, 2, 2\]; expected \[N, C, H, W\]"),
            ((MODEL, FOUR[:0], HEAT), {}, ValueError, "x has no images"),
            ((MODEL, FOUR, HEAT[0]), {}, ValueError, r"heatmaps has shape \[2, 2\]; expected \[N, H, W\]: add the batch .* heatmaps\[None\]"),
            ((MODEL, FOUR, HEAT[None]), {}, ValueError, r"heatmaps has shape \[1, 1, 2, 2\]; .* as heatmaps\[:, 0\]"),
            ((MODEL, FOUR, HEAT.expand(3, 2, 2)), {}, ValueError, r"heatmaps has shape \[3, 2, 2\] for 1 images"),
            ((MODEL, FOUR, [[1]]), {}, TypeError, r"heatmaps is a list; expected a tensor or an array"),
            ((MODEL, FOUR, np.array([["a"]])), {}, TypeError, r"heatmaps has dtype <U1; expected real numbers"),
            ((MODEL, FOUR, HEAT + 0j), {}, TypeError, r"heatmaps has dtype torch.complex64"),
            ((MODEL, FOUR, HEAT, 2), {}, ValueError, "targets has class 2; expected 0 to 1"),
            ((MODEL, FOUR, HEAT, [0, 1]), {}, ValueError, "targets has 2 entries for a batch of 1"),
            ((MODEL, FOUR, HEAT, [[0, 1]]), {}, ValueError, "targets has several classes a sample; metrics are of one"),
            ((MODEL, FOUR, HEAT), dict(steps=0), ValueError, "steps=0; expected a whole number from 1 to 4"),
            ((MODEL, FOUR, HEAT), dict(steps=5), ValueError, "steps=5; expected a whole number from 1 to 4"),
            ((MODEL, FOUR, HEAT), dict(steps=1.5), ValueError, "steps=1.5"),
            ((MODEL, FOUR, HEAT), dict(baseline="black"), ValueError, "baseline='black'; expected 'zero', 'mean', 'blur'"),
            ((MODEL, FOUR, HEAT), dict(baseline=math.inf), ValueError, "baseline=inf is not finite"),
            ((MODEL, FOUR, HEAT), dict(baseline=None), TypeError, "baseline=None is a NoneType"),
            ((MODEL, FOUR, HEAT), dict(baseline=torch.ones(3, 2, 2)), ValueError, r"baseline has shape \[3, 2, 2\], which does not broadcast"),
            ((MODEL, FOUR, HEAT), dict(baseline=torch.ones(2)), ValueError, r"baseline has shape \[2\]"),
            ((MODEL, FOUR, HEAT), dict(score="probability"), ValueError, "score='probability'; expected 'softmax', 'logit'"),
            ((MODEL, FOUR, HEAT), dict(score=lambda output: output[:, 0]), ValueError, r"score made \[1\] of the model's output \[1, 2\]"),
            ((MODEL, FOUR, HEAT), dict(batch_size=0), ValueError, "batch_size=0; expected a whole number"),
            ((MODEL, FOUR, HEAT), dict(output=7), ValueError, "output=7 is not in the model's output"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            metrics.deletion(*arguments, **options)

    def test_a_loaded_model_holds_the_module(self, small):
        with pytest.raises(TypeError, match="model is a LoadedModel; .* give its .module"):
            metrics.deletion(small, FOUR, HEAT)


class TestEvaluate:
    def test_shares_what_metrics_have_in_common(self):
        model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
        cam, calls = camfast.GradCAM(model), []

        def explainer(x, targets):
            calls.append(targets)
            return cam(x, targets)

        found = metrics.evaluate(explainer, x, ("coherency", "adcc", "arcc", "road"), model=model)
        assert len(calls) == 2
        assert calls[0].equal(model(x).argmax(1))
        assert found["adcc"].values.equal(metrics.adcc(model, x, cam(x), cam).values)
        assert found["road"].values.equal(metrics.road(model, x, cam(x)).values)
        assert list(found.scores) == ["coherency", "adcc", "arcc", "road"]

    def test_prints_a_table_and_gives_plain_numbers(self):
        found = metrics.evaluate(lambda x, targets: HEAT, FOUR, "deletion", 0, model=MODEL, score="logit", options={"deletion": {"steps": 4}})  # fmt: skip
        assert repr(found).splitlines()[1:] == [
            "  metric        mean    least     most  better",
            "  deletion    3.7500   3.7500   3.7500  lower",
        ]
        assert found.as_dict() == {"deletion": {"mean": 3.75, "values": [3.75], "better": "lower"}}
        assert repr(found["deletion"]) == "deletion 3.7500 (lower is better; 1 image)"
        missing = metrics.evaluate(
            lambda x, t: HEAT * math.nan, FOUR, "deletion", model=MODEL, options={"deletion": {"steps": 4}}
        )
        assert missing.as_dict() == {"deletion": {"mean": None, "values": [None], "better": "lower"}}
        assert repr(missing["deletion"]) == "deletion nan (lower is better; 1 image, 1 of them without a number)"
        assert "GradCAM, 2 images" in repr(evaluated(PooledNet(), torch.randn(2, 3, 16, 16), names=["drop"]))

    def test_bad_arguments(self):
        model, x = PooledNet(), torch.randn(1, 3, 8, 8)
        cam = camfast.GradCAM(model)
        with pytest.raises(ValueError, match="metric 'deleton' is unknown; did you mean deletion"):
            metrics.evaluate(cam, x, "deleton")
        with pytest.raises(ValueError, match="metrics is empty; known: deletion, "):
            metrics.evaluate(cam, x, ())
        with pytest.raises(ValueError, match=r"options has 'road', which is not among metrics \(drop\)"):
            metrics.evaluate(cam, x, "drop", options={"road": {}})
        with pytest.raises(ValueError, match="explainer has no .model; give model="):
            metrics.evaluate(lambda x, t: x[:, 0], x)
        with pytest.raises(ValueError, match="the sanity check copies the explainer with its model"):
            metrics.evaluate(lambda x, t: x[:, 0], x, "sanity", model=model)

    def test_weighted_sums_are_explained_by_their_weights(self):
        model, x = WeightedNet(), torch.ones(1, 1, 4, 4)
        best = model.conv.weight[1].detach()
        good = metrics.deletion(model, x, best, 1, steps=16, score="logit")
        bad = metrics.deletion(model, x, -best, 1, steps=16, score="logit")
        ordered = best.flatten().sort(descending=True).values
        torch.testing.assert_close(good.curves[0, 1:], ordered.sum() - ordered.cumsum(0), rtol=1e-4, atol=1e-6)
        assert good.mean < bad.mean
