"""Graphs are made simpler, and give the same numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from parts import X, called, net, part_of
from torch import nn

from camfast.optimize.simplify import simplify


def simplified(function, **modules):
    """How many BatchNorms are folded, and what is left; the numbers are the same."""
    model = net(function, **modules)
    part = copy.deepcopy(part_of(model))
    expected = model(X)
    folded = simplify(part, ((X,),))
    torch.testing.assert_close(part((X,)), expected, rtol=0, atol=1e-5)
    return folded, called(part)


def normed(channels=4):
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def test_batch_norm_after_a_convolution():
    assert simplified(lambda m, x: m.bn(m.c(x)), c=nn.Conv2d(3, 4, 3), bn=normed()) == (1, ["Conv2d"])


def test_a_literal_fold():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3.0)
    conv.bias.data.fill_(1.0)
    norm.running_mean.fill_(5.0)
    norm.running_var.fill_(4.0)
    norm.weight.data.fill_(2.0)
    norm.bias.data.fill_(7.0)
    part = part_of(nn.Sequential(conv, norm).eval(), X[:, :1])
    assert simplify(part, ((X[:, :1],),)) == 1
    (folded,) = (m for m in part.modules() if isinstance(m, nn.Conv2d))
    assert (folded.weight.item(), folded.bias.item()) == (3.0, 3.0)  # 2 (3 x + 1 - 5) / 2 + 7


def test_not_of_a_convolution_that_others_use():
    function = lambda m, x: m.bn(y := m.c(x)) + y  # noqa: E731
    assert simplified(function, c=nn.Conv2d(3, 4, 3), bn=normed())[0] == 0


def test_not_of_a_convolution_that_runs_twice():
    function = lambda m, x: m.bn(m.c(x)) + m.c(x)  # noqa: E731
    assert simplified(function, c=nn.Conv2d(3, 4, 3), bn=normed())[0] == 0


def test_functions_of_parameters():
    class Same(nn.Conv2d):
        def forward(self, x):
            torch._assert(x.ndim == 4, "rank")
            return F.conv2d(x, self.weight, self.bias, self.stride, 1, self.dilation, self.groups)

    class Norm(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)

    norm = Norm(4)
    norm.running_mean.normal_()
    assert simplified(lambda m, x: m.bn(m.c(x)).relu(), c=Same(3, 4, 3), bn=norm) == (1, ["Conv2d", "relu"])


def test_padding():
    symmetric, lopsided = nn.ZeroPad2d((2, 2, 1, 1)), nn.ZeroPad2d((0, 1, 0, 1))
    assert simplified(lambda m, x: m.c(m.p(x)), c=nn.Conv2d(3, 4, 3), p=symmetric) == (0, ["Conv2d"])
    assert simplified(lambda m, x: m.c(m.p(x)), c=nn.Conv2d(3, 4, 3), p=lopsided) == (
        0,
        ["ZeroPad2d", "Conv2d"],
    )


DEPTHWISE_PADDING = [
    ((0, 1, 0, 1), {}, ["Conv2d"]),  # as TensorFlow pads for a stride of 2
    ((1, 0, 2, 1), {"stride": 2, "padding": (0, 1)}, ["Conv2d"]),
    ((0, 0, 1, 0), {"bias": False}, ["Conv2d"]),
    ((0, 2, 0, 0), {}, ["ZeroPad2d", "Conv2d"]),  # two columns more would cost too much
    ((0, 1, 0, 1), {"dilation": 2}, ["ZeroPad2d", "Conv2d"]),
    ((-1, 0, 0, 0), {}, ["ZeroPad2d", "Conv2d"]),
]


@pytest.mark.parametrize(("zeros", "options", "left"), DEPTHWISE_PADDING)
def test_padding_of_a_depthwise_convolution_becomes_part_of_its_kernel(zeros, options, left):
    convolution = nn.Conv2d(3, 6, (3, 2), groups=3, **options)
    assert simplified(lambda m, x: m.c(m.p(x)), c=convolution, p=nn.ZeroPad2d(zeros)) == (0, left)


def test_identities():
    function = lambda m, x: F.dropout(m.d(m.i(x)), 0.5, m.training).contiguous().relu()  # noqa: E731
    assert simplified(function, d=nn.Dropout(), i=nn.Identity()) == (0, ["relu"])
    _, left = simplified(lambda m, x: F.dropout(x, 0.0).relu())  # in training, as the user has it
    assert left == ["dropout", "relu"]


def tokens(m, x):
    return m.patches(x).flatten(2).transpose(1, 2)


def attention(**options):
    return {
        "patches": nn.Conv2d(3, 8, 4, stride=4),
        "attention": nn.MultiheadAttention(8, 2, **{"batch_first": True, **options}),
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_self_attention_is_spelled_out(bias, dropout):
    def function(m, x):
        t = tokens(m, x)
        return t + m.attention(t, t, t, need_weights=False)[0]

    steps = ["Conv2d", "flatten", "transpose", "Linear", "attend", "Linear", "add"]
    assert simplified(function, **attention(bias=bias, dropout=dropout)) == (0, steps)


KEPT = {
    "weights asked for": ({}, lambda m, t: m.attention(t, t, t, need_weights=True)[0]),
    "weights used": ({}, lambda m, t: torch.cat(m.attention(t, t, t), -1)),
    "other keys": ({}, lambda m, t: m.attention(t, t + 1, t, need_weights=False)[0]),
    "by name": ({}, lambda m, t: m.attention(query=t, key=t, value=t, need_weights=False)[0]),
    "masked": ({}, lambda m, t: m.attention(t, t, t, None, False, torch.ones(30, 30).tril() == 0)[0]),
    "tokens first": ({"batch_first": False}, lambda m, t: m.attention(t, t, t, need_weights=False)[0]),
    "more keys": ({"add_bias_kv": True}, lambda m, t: m.attention(t, t, t, need_weights=False)[0]),
    "a zero key": ({"add_zero_attn": True}, lambda m, t: m.attention(t, t, t, need_weights=False)[0]),
    "narrow keys": ({"kdim": 4, "vdim": 4}, lambda m, t: m.attention(t, t[..., :4], t[..., :4])[0]),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_attention_stays(name):
    options, function = KEPT[name]
    _, steps = simplified(lambda m, x: function(m, tokens(m, x)), **attention(**options))
    assert "MultiheadAttention" in steps
    assert "attend" not in steps
