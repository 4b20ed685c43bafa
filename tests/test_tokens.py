"""How what a layer puts out is read as a map: tokens, channels last, and what cannot be told."""

import pickle
import threading

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import Tokens
from torch import nn

import camfast
from camfast.tokens import Reading, Unreadable, plainly_maps, read

ANY = nn.Module()


class Patches(nn.Module):
    """Square patches by a linear layer, some tokens before them, a normalization, and a mean."""

    def __init__(self, prefix=1, side=8):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(3 * side**2, 6), nn.LayerNorm(6), nn.Linear(6, 4)
        self.side = side
        self.others = nn.Parameter(torch.randn(1, prefix, 6))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        patches = x.unfold(2, self.side, self.side).unfold(3, self.side, self.side)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        tokens = torch.cat([self.others.expand(len(x), -1, -1), self.embed(patches)], 1)
        return self.head(self.norm(tokens).square().mean(1))


def grid_of(prefix, h, w):
    return lambda t: t[:, prefix:].transpose(1, 2).unflatten(2, (h, w))


class TestReading:
    @pytest.mark.parametrize(
        ("shape", "seen", "expected"),
        [
            ((2, 768, 7, 7), (), Reading((7, 7))),
            ((2, 7, 7, 768), (), Reading((7, 7), channels_last=True)),
            ((2, 7, 7, 7), (), Reading((7, 7))),  # [N, C, h, w] where both are possible
            ((2, 28, 28, 3), (), Reading((28, 28), channels_last=True)),
            ((2, 512, 1, 26), (), Reading((1, 26))),  # no proportion of the image either way
            ((2, 26, 26, 5), [(26, 5)], Reading((26, 5))),  # the model has made such maps before
            ((2, 196, 192), (), Reading((14, 14), prefix=0)),
            ((2, 197, 192), (), Reading((14, 14), prefix=1)),
            ((2, 198, 192), (), Reading((14, 14), prefix=2)),
            ((2, 201, 192), (), Reading((14, 14), prefix=5)),
            ((2, 50, 192), [(112, 112), (7, 7)], Reading((7, 7), prefix=1)),
            ((2, 82, 192), [(9, 9)], Reading((9, 9), prefix=1)),  # 9 does not divide 224: only the maps tell
            ((2, 401, 192), [(1, 401), (20, 20)], Reading((20, 20), prefix=1)),  # of heads and keys, not of positions
        ],
    )
    def test_of_a_square_image(self, shape, seen, expected):
        assert read(ANY, shape, 2, (224, 224), seen) == expected

    @pytest.mark.parametrize(
        ("shape", "size", "expected"),
        [
            ((1, 6 * 10 + 1, 8), (96, 160), Reading((6, 10), prefix=1)),
            ((1, 3, 5, 64), (96, 160), Reading((3, 5), channels_last=True)),
            ((1, 64, 3, 5), (96, 160), Reading((3, 5))),
            ((1, 4, 6, 32), (97, 161), Reading((4, 6), channels_last=True)),  # 97 / 32 and 161 / 32, rounded up
            ((1, 2, 4, 4, 96), (8, 64, 64), Reading((4, 4, 96))),  # a stride of 4 is not one of 16
            ((1, 4, 4, 4, 96), (64, 64, 64), Reading((4, 4, 4), channels_last=True)),
            ((1, 96, 2, 4, 4), (8, 64, 64), Reading((2, 4, 4))),
        ],
    )
    def test_of_other_images(self, shape, size, expected):
        assert read(ANY, shape, 1, size, ()) == expected

    def test_layers_that_know_their_channels(self):
        square = (2, 14, 14, 14)
        assert read(nn.Linear(14, 14), square, 2, (224, 224), ()).channels_last
        assert read(nn.LayerNorm(768), (2, 3, 5, 768), 2, (224, 224), ()).channels_last
        assert not read(nn.Conv2d(3, 16, 1), (2, 16, 16, 8), 2, (224, 224), ()).channels_last
        assert read(ANY, (2, 16, 16, 8), 2, (224, 224), ()).channels_last
        assert plainly_maps(ANY, (2, 64, 7, 7), (224, 224))
        assert not plainly_maps(ANY, (2, 7, 7, 64), (224, 224))
        assert not plainly_maps(ANY, (2, 49, 64), (224, 224))

    @pytest.mark.parametrize(
        ("shape", "size", "message"),
        [
            (
                (1, 18, 5),
                (96, 96),
                r"puts out \[1, 18, 5\], which may be 2 grids; give "
                r"reshape_transform=lambda t: t\[:, 9:\].transpose\(1, 2\).unflatten\(2, \(3, 3\)\) or "
                r"lambda t: t\[:, 2:\].transpose\(1, 2\).unflatten\(2, \(4, 4\)\)",
            ),
            (
                (1, 31, 5),
                (96, 90),
                r"puts out \[1, 31, 5\]: 31 tokens, less 0, 1, 2, 4, 5, 8 or 9 others, are no grid of images 96×90; "
                r"give reshape_transform=lambda t: t\[:, 1:\].transpose\(1, 2\).unflatten\(2, \(h, w\)\) for 1 other",
            ),
            (
                (197, 1, 5),
                (224, 224),
                r"puts out \[197, 1, 5\], tokens before samples; give "
                r"reshape_transform=lambda t: t\[1:\].permute\(1, 2, 0\).unflatten\(2, \(14, 14\)\)",
            ),
            ((64, 49, 5), (224, 224), r"puts out \[64, 49, 5\] for 1 image \(windows, or regions\); choose a layer"),
            ((64, 7, 7, 5), (224, 224), r"puts out \[64, 7, 7, 5\] for 1 image"),
            ((1, 10), (224, 224), r"puts out \[1, 10\]; expected \[N, C, h, w\]. Choose another layer, or give"),
        ],
    )
    def test_what_cannot_be_told_shows_how(self, shape, size, message):
        with pytest.raises(Unreadable, match=message):
            read(ANY, shape, 1, size, ())

    def test_maps_share_their_memory(self):
        tokens = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
        maps = Reading((2, 3), prefix=1).maps(tokens)
        assert maps.shape == (2, 3, 2, 3)
        assert maps[1, 2].tolist() == [[26, 29, 32], [35, 38, 41]]  # 21 + 3 * token + 2, from token 1 on
        assert maps.data_ptr() == tokens[:, 1:].data_ptr()
        last = torch.arange(12.0).reshape(1, 2, 3, 2)
        assert Reading((2, 3), channels_last=True).maps(last)[0, 1].tolist() == [[1, 3, 5], [7, 9, 11]]

    def test_the_same_layer_for_images_of_another_size(self):
        reading = Reading((4, 4), prefix=2)
        assert reading.at((1, 26, 5), (64, 64), (64, 96)) == Reading((4, 6), prefix=2)
        assert reading.at((1, 26, 5), (64, 64), (100, 72)) == Reading((6, 4), prefix=2)  # 6.25 and 4.5
        assert Reading((4, 4), channels_last=True).at((1, 6, 4, 5), (64, 64), (96, 64)).grid == (6, 4)
        with pytest.raises(Unreadable, match="26 tokens, .* are no grid of images 32×32"):
            reading.at((1, 26, 5), (64, 64), (32, 32))


class TestEngine:
    def test_tokens_are_read_as_a_transform_would(self):
        model, x = Patches().eval(), torch.randn(2, 3, 32, 48)
        for targets in (None, camfast.TopK(3), [[0, 1], [2, 3]], lambda output: output[1]):
            expected = camfast.GradCAM(model, "norm", reshape_transform=grid_of(1, 4, 6)).explain(x, targets)
            got = camfast.GradCAM(model, "norm").explain(x, targets)
            assert got.heatmaps.equal(expected.heatmaps)
            assert got.ranges.equal(expected.ranges)

    def test_several_layers_of_which_one_is_maps(self):
        model, x = Tokens().eval(), torch.randn(2, 3, 32, 32)
        assert camfast.GradCAM(model, ["patches", "mix", "norm"])(x).shape == (2, 32, 32)

    def test_images_of_another_size_take_no_further_pass(self):
        model = Patches().eval()
        cam = camfast.GradCAM(model, "norm")
        cam(torch.randn(2, 3, 32, 32))
        for height, width in ((32, 48), (32, 32), (16, 64), (64, 16), (32, 48)):
            x = torch.randn(3, 3, height, width)
            model.runs = 0
            got = cam(x)
            assert model.runs == 1
            transform = grid_of(1, height // 8, width // 8)
            assert got.equal(camfast.GradCAM(model, "norm", reshape_transform=transform)(x))

    def test_two_threads_with_as_many_tokens_of_other_proportions(self):
        model = Patches().eval()
        cam = camfast.GradCAM(model, "norm")
        images = [torch.randn(2, 3, 16, 64), torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 16)]
        expected = [camfast.GradCAM(model, "norm")(x) for x in images]
        cam(images[1])
        wrong = []

        def explain(index):
            for _ in range(20):
                if not torch.allclose(cam(images[index]), expected[index], atol=1e-6):
                    wrong.append(index)

        threads = [threading.Thread(target=explain, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_what_cannot_be_told_is_an_error_that_shows_how(self):
        model, x = Patches(prefix=2, side=24).eval(), torch.randn(2, 3, 96, 96)
        before = fingerprint(model)
        with pytest.raises(ValueError, match=r"layer 'norm' puts out \[2, 18, 6\], which may be 2 grids; give reshape"):
            camfast.GradCAM(model, "norm")(x)
        assert_same(before, fingerprint(model))
        transform = eval("lambda t: t[:, 2:].transpose(1, 2).unflatten(2, (4, 4))")  # as the message has it
        assert camfast.GradCAM(model, "norm", reshape_transform=transform)(x).shape == (2, 96, 96)

    def test_pickled_after_a_call(self):
        cam, x = camfast.GradCAM(Patches().eval(), "norm"), torch.randn(1, 3, 32, 48)
        expected = cam(x)
        assert pickle.loads(pickle.dumps(cam))(x).equal(expected)

    @pytest.mark.parametrize("optimize", ["none", "inference"])
    def test_leaves_no_trace(self, optimize):
        model, x = Tokens().train(), torch.randn(2, 3, 32, 32)
        before = fingerprint(model)
        camfast.GradCAM(model, "mix", optimize=optimize)(x)
        camfast.GradCAM(model, optimize=optimize)(x)
        assert_same(before, fingerprint(model))

    def test_half_precision_and_no_grad(self):
        model, x = Patches().eval(), torch.randn(2, 3, 32, 48)
        expected = camfast.GradCAM(model, "norm")(x, 1)
        with torch.inference_mode():
            assert camfast.GradCAM(model, "norm")(x, 1).equal(expected)
        got = camfast.GradCAM(model.bfloat16(), "norm")(x.bfloat16(), 1)
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() <= 0.15

    def test_a_batch_equals_its_samples(self):
        cam, x = camfast.GradCAM(Patches().eval(), "norm"), torch.randn(3, 3, 32, 48)
        for together, alone in zip(cam(x, 2), x, strict=True):
            torch.testing.assert_close(together, cam(alone[None], 2)[0], rtol=0, atol=1e-5)

    def test_a_sample_that_is_not_finite_touches_no_other(self):
        cam, x = camfast.GradCAM(Patches().eval(), "norm"), torch.randn(2, 3, 32, 48)
        expected = cam(x, 1)
        x[0, 0, 0, 0] = torch.nan
        explained = cam.explain(x, 1)
        assert explained.ranges[0].isnan().all()
        assert explained.heatmaps[0].eq(0).all()
        torch.testing.assert_close(explained.heatmaps[1], expected[1], rtol=0, atol=1e-6)
