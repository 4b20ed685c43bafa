"""LeGrad: by hand, by the definition in float64, as the peer has it, and what it refuses."""

import contract
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import CifarNet, PooledNet, Tokens
from torch import nn
from torch.nn import functional as F

import camfast
from camfast.methods.legrad import LeGrad

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def of_torchvision(classes=5, **options) -> nn.Module:
    from torchvision.models import VisionTransformer

    options = dict(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32) | options
    model = VisionTransformer(**options, num_classes=classes).eval()
    return awake(model)


def of_timm(**options) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    options = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5) | options
    return awake(VisionTransformer(**options).eval())


def awake(model: nn.Module) -> nn.Module:
    """With weights that make a difference, the classifier's among them."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0, 0.3)
    return model


def unfused() -> nn.Module:
    model = of_timm()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("build", [of_torchvision, of_timm, unfused])
def test_contract(build, check):
    check(LeGrad, build, X.clone())


class Attends(nn.Module):
    """Every token becomes the mean of all tokens, by attention with equal probabilities."""

    def forward(self, x):
        values = x[:, None]
        zeros = torch.zeros_like(values)
        return F.scaled_dot_product_attention(zeros, zeros, values)[:, 0]


class Mean(nn.Module):
    """Pixels as tokens, one block, and two classes: the mean of the tokens, and that times -1."""

    def __init__(self):
        super().__init__()
        self.block = Attends()

    def head(self, tokens):
        mean = tokens.mean((1, 2))[:, None]
        return torch.cat([mean, -mean], 1)

    def forward(self, x):
        return self.head(self.block(x.flatten(2).transpose(1, 2)))


def test_by_hand():
    model, x = Mean().eval(), torch.tensor([[[[1.0, -2], [3, 4]]]])
    engine = LeGrad(model, "block", head=model.head)
    # The score is the mean over 4 queries of the sum over keys of A v: its gradient at each A is v / 4.
    explained = engine.explain(x, [[0, 1]])
    assert explained.heatmaps.tolist() == [[[[0.25, 0], [0.75, 1]], [[0, 1], [0, 0]]]]
    assert explained.ranges.tolist() == [[[0, 1], [0, 0.5]]]
    assert explained.logits.tolist() == [[1.5, -1.5]]
    assert engine.explain(x).targets.tolist() == [0]


def relevance64(attention, score):
    """[N, T], from probabilities [N, heads, T, T] and the scores that were made of them."""
    (gradient,) = torch.autograd.grad(score.sum(), attention)
    return gradient.clamp_min(0).mean((1, 2))


def attended64(attention: nn.Module, x, heads):
    """The probabilities and what becomes of them, for nn.MultiheadAttention and that of timm."""
    own = isinstance(attention, nn.MultiheadAttention)
    mixed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias) if own else attention.qkv(x)
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in mixed.chunk(3, dim=2))
    probabilities = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).detach().requires_grad_()
    output = (probabilities @ v).transpose(1, 2).flatten(2)
    return probabilities, (attention.out_proj if own else attention.proj)(output)


def torchvision64(model, x, targets, layers):
    model = model.double()
    x = model._process_input(x.double())
    x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1) + model.encoder.pos_embedding
    maps = []
    for number, block in enumerate(model.encoder.layers):
        probabilities, attended = attended64(block.self_attention, block.ln_1(x), block.num_heads)
        x = x + attended
        x = x + block.mlp(block.ln_2(x))
        if number in layers:
            score = model.heads(model.encoder.ln(x.mean(1)))[range(len(x)), targets]
            maps.append(relevance64(probabilities, score)[:, 1:])
        x = x.detach()
    return torch.stack(maps).mean(0).unflatten(1, (4, 4))


@pytest.mark.parametrize("layers", [[0, 1, 2], [1], [2, 0]])
def test_by_the_definition_in_float64(layers):
    model = of_torchvision()
    given = None if len(layers) == 3 else [f"encoder.layers.encoder_layer_{number}" for number in layers]
    got = LeGrad(model, given).explain(X, [0, 3, 1], size="layer", normalize=False)
    expected = torchvision64(model, X, [0, 3, 1], layers)
    torch.testing.assert_close(got.heatmaps.double(), expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(
        got.ranges.double(), torch.stack([expected.amin((1, 2)), expected.amax((1, 2))], 1), rtol=1e-4, atol=1e-8
    )
    larger = F.interpolate(expected[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    full = LeGrad(model.float(), given)(X, [0, 3, 1], normalize=False)
    torch.testing.assert_close(full.double(), larger, rtol=1e-4, atol=1e-8)


def timm64(model, x, targets, prefix):
    model = model.double()
    x = model._pos_embed(model.patch_embed(x.double()))
    maps = []
    for block in model.blocks:
        probabilities, attended = attended64(block.attn, block.norm1(x), 2)
        x = x + block.ls1(attended)
        x = x + block.ls2(block.mlp(block.norm2(x)))
        mean = model.norm(x.mean(1))
        if hasattr(model, "head_dist"):
            logits = (model.head(mean) + model.head_dist(mean)) / 2
        else:
            logits = model.head(model.fc_norm(mean))
        maps.append(relevance64(probabilities, logits[range(len(x)), targets])[:, prefix:])
        x = x.detach()
    return torch.stack(maps).mean(0).unflatten(1, (4, 4))


@pytest.mark.parametrize(
    ("build", "prefix"),
    [
        (of_timm, 1),
        (unfused, 1),
        (lambda: of_timm(init_values=0.5), 1),
        (lambda: of_timm(class_token=False, global_pool="avg"), 0),
        (lambda: of_timm(reg_tokens=4), 5),
        (lambda: distilled(), 2),
    ],
    ids=["class token", "unfused", "layer scale", "mean of the tokens", "registers", "distilled"],
)
def test_transformers_of_timm_by_the_definition_in_float64(build, prefix):
    model = build()
    got = LeGrad(model).explain(X, [0, 3, 1], size="layer", normalize=False)
    expected = timm64(model, X, [0, 3, 1], prefix)
    torch.testing.assert_close(got.heatmaps.double(), expected, rtol=1e-4, atol=1e-8)


def distilled() -> nn.Module:
    from timm.models.deit import VisionTransformerDistilled

    options = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    return awake(VisionTransformerDistilled(**options).eval())


def test_torchcam():
    from torchcam.methods import LeGrad as Peer
    from torchvision.models import vit_b_16

    model = vit_b_16(image_size=64, num_classes=10).eval()
    nn.init.normal_(model.heads.head.weight, 0, 0.5)
    x = torch.randn(2, 3, 64, 64)
    for blocks in (list(model.encoder.layers), [model.encoder.layers[8], model.encoder.layers[11]]):
        with Peer(model, blocks) as peer:
            theirs = peer([3, 5], model(x))[0]
        assert (LeGrad(model, blocks)(x, [3, 5], size="layer") - theirs).abs().max() <= 1e-4
    model.zero_grad(set_to_none=True)


def test_images_that_are_not_square():
    model = of_timm(img_size=(32, 48))
    x = torch.randn(2, 3, 32, 48)
    assert LeGrad(model)(x, 1, size="layer").shape == (2, 4, 6)
    engine = LeGrad(model, None, lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    contract.close(engine.explain(x, 1), LeGrad(model).explain(x, 1))


def test_separate_projections_and_in_place_activations():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True, kdim=16, vdim=8)
            self.linear = nn.Linear(16, 16)

        def forward(self, x):
            attended, weights = self.attention(x, x, x[..., :8])
            assert weights.shape == (len(x), 17, 17)
            return x + self.linear(attended.relu_())

    model = awake(Wraps(Block()).eval())
    got = LeGrad(model, "block", head=model.head).explain(X, 1, size="layer", normalize=False)
    model = model.double()
    x, attention = model.tokens(X.double()), model.block.attention
    wq, wk, wv = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    bq, bk, bv = attention.in_proj_bias.chunk(3)
    parts = (F.linear(x, wq, bq), F.linear(x, wk, bk), F.linear(x[..., :8], wv, bv))
    q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in parts)
    a = (q @ k.mT / 8**0.5).softmax(-1).detach().requires_grad_()
    out = x + model.block.linear(attention.out_proj((a @ v).transpose(1, 2).flatten(2)).relu())
    expected = relevance64(a, model.head(out)[:, 1])[:, 1:].unflatten(1, (4, 4))
    torch.testing.assert_close(got.heatmaps.double(), expected, rtol=1e-4, atol=1e-8)


class Wraps(nn.Module):
    """Patches as tokens after a class token, a block, and a classifier of the first token."""

    def __init__(self, block):
        super().__init__()
        self.patches, self.block, self.fc = nn.Conv2d(3, 16, 8, stride=8), block, nn.Linear(16, 3)

    def tokens(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([x.new_ones(len(x), 1, 16), x], 1)

    def head(self, tokens):
        return self.fc(tokens[:, 0])

    def forward(self, x):
        return self.head(self.block(self.tokens(x)))


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_encoder_layers_of_pytorch(batch_first):
    model = Tokens().eval()
    engine = LeGrad(model, "mix", head=lambda tokens: model.head(model.norm(tokens).mean(1)))
    explained = engine.explain(torch.randn(2, 3, 32, 32), 1)
    assert explained.heatmaps.amax((1, 2)).eq(1).all()
    assert explained.ranges.isfinite().all()


def test_blocks_run_without_a_graph_up_to_their_attention_and_from_there_with_one():
    model, modes = of_torchvision(), {}
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: modes.__setitem__(
                name, (output[0] if isinstance(output, tuple) else output).requires_grad
            )
        )
        for name, module in model.named_modules()
        if name.startswith("encoder.layers.encoder_layer_1")
    ]
    LeGrad(model)(X)
    for handle in handles:
        handle.remove()
    assert {name.removeprefix("encoder.layers.encoder_layer_1"): mode for name, mode in modes.items()} == {
        ".ln_1": False,
        ".self_attention": True,
        ".dropout": True,
        ".ln_2": True,
        ".mlp.0": True,
        ".mlp.1": True,
        ".mlp.2": True,
        ".mlp.3": True,
        ".mlp.4": True,
        ".mlp": True,
        "": True,
    }


def test_autocast():
    model = of_timm()
    expected = LeGrad(model)(X, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = LeGrad(model).explain(X, 1)
    assert got.heatmaps.dtype == torch.float32
    assert (got.heatmaps - expected).abs().mean() < 0.1


def test_settings_and_layers():
    model = of_torchvision()
    engine = LeGrad(model)
    assert engine.target_layers == [f"encoder.layers.encoder_layer_{number}" for number in range(3)]
    assert LeGrad(of_timm()).target_layers == ["blocks.0", "blocks.1", "blocks.2"]
    assert engine.settings["target_layers"] is None
    assert LeGrad(model, model.encoder.layers[1]).target_layers == ["encoder.layers.encoder_layer_1"]


class TestRefusals:
    def test_models_that_are_no_transformers(self):
        with pytest.raises(ValueError, match="PooledNet has no blocks at 'encoder.layers' or 'blocks', .* and head"):
            LeGrad(PooledNet())
        with pytest.raises(ValueError, match="CifarNet has no last normalization and classifier .* give head"):
            LeGrad(CifarNet(), "conv1")
        with pytest.raises(ValueError, match="has no last normalization and classifier"):
            LeGrad(of_timm(class_token=False, global_pool="map"))
        with pytest.raises(ValueError, match="target layer 'bloks.0' is not in the model; did you mean blocks.0"):
            LeGrad(of_timm(), "bloks.0")

    def test_layers_that_are_no_blocks(self):
        model = of_timm()
        before = fingerprint(model)
        with pytest.raises(ValueError, match="layer 'blocks.0.mlp' runs attention 0 times; expected one run"):
            LeGrad(model, "blocks.0.mlp")(X)
        with pytest.raises(ValueError, match=r"layer 'patch_embed.proj' puts out \[3, 16, 4, 4\]; expected the tokens"):
            LeGrad(model, "patch_embed.proj")(X)
        with pytest.raises(ValueError, match="layer 'blocks' runs attention 3 times"):
            LeGrad(model, "blocks")(X)
        assert_same(before, fingerprint(model))
        model.unused = nn.Identity()
        with pytest.raises(ValueError, match="target layer 'unused' did not run"):
            LeGrad(model, "unused")(X)
        assert torch.is_grad_enabled()

    def test_heads_that_make_no_logits(self):
        model = of_timm()
        with pytest.raises(TypeError, match="head is a int; expected a callable from tokens"):
            LeGrad(model, head=3)
        with pytest.raises(
            ValueError, match=r"head made \[3, 17, 16\] of \[3, 17, 16\]; expected logits \[N, classes\]"
        ):
            LeGrad(model, head=lambda tokens: tokens)(X)
        with pytest.raises(ValueError, match="head made 16 logits, and the model makes 5"):
            LeGrad(model, head=lambda tokens: tokens.mean(1))(X)
        with pytest.raises(ValueError, match="the score of layer 'blocks.0' does not depend on its attention"):
            LeGrad(model, head=lambda tokens: torch.zeros(3, 5))(X)

    def test_attention_in_windows(self):
        class Windows(nn.Module):
            def forward(self, x):
                parts = x[:, 1:].reshape(len(x) * 4, 1, 4, 16)
                attended = F.scaled_dot_product_attention(parts, parts, parts).reshape(len(x), 16, 16)
                return torch.cat([x[:, :1], attended], 1)

        model = Wraps(Windows()).eval()
        with pytest.raises(ValueError, match=r"puts out 17 tokens and attends to 4 keys; .* among all tokens"):
            LeGrad(model, "block", head=lambda tokens: model.fc(tokens.mean(1)))(X, 1)

    def test_keys_that_are_no_tokens(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(16, 2, batch_first=True, add_bias_kv=True)

            def forward(self, x):
                return self.attention(x, x, x, need_weights=False)[0]

        model = Wraps(Block()).eval()
        with pytest.raises(ValueError, match="add_bias_kv or add_zero_attn, which add a key that is no token"):
            LeGrad(model, "block", head=model.head)(X, 1)

    def test_tokens_of_which_no_grid_can_be_made(self):
        class Block(nn.Module):
            def forward(self, x):
                x = x[:, None, :14]
                return F.scaled_dot_product_attention(x, x, x)[:, 0]

        model = Wraps(Block()).eval()
        with pytest.raises(
            ValueError, match=r"layer 'block' puts out \[3, 14, 16\]: 14 tokens, .* give reshape_transform"
        ):
            LeGrad(model, "block", head=model.head)(X, 1)
        got = LeGrad(model, "block", lambda t: t.transpose(1, 2).unflatten(2, (2, 7)), head=model.head)
        assert got(X, 1, size="layer").shape == (3, 2, 7)
        with pytest.raises(
            ValueError, match=r"reshape_transform made \[3, 14, 1\] of \[3, 14, 1\]; expected \[N, 1, h, w\]"
        ):
            LeGrad(model, "block", lambda t: t, head=model.head)(X, 1)

    def test_grids_that_differ(self):
        class Shrinks(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = Attends(), Attends()

            def forward(self, x):
                x = self.one(x)
                return self.two(torch.cat([x[:, :1], x[:, 1::4]], 1))

        model = Wraps(Shrinks()).eval()
        with pytest.raises(
            ValueError, match=r"tokens of different grids \(\[4, 4\], \[2, 2\]\); give layers of one grid"
        ):
            LeGrad(model, ["block.one", "block.two"], head=model.head)(X, 1)


def test_it_is_an_explainer():
    assert isinstance(LeGrad(of_timm()), camfast.engine.Explainer)
