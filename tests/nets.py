"""Small networks, each with one trait that a test needs."""

import torch
from torch import Tensor, nn


class CifarNet(nn.Module):
    """The tutorials' network for CIFAR-10: three convolutions, each with ReLU and pooling, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(2048, 512)
        self.fc2 = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(conv(x).relu())
        return self.fc2(self.fc1(x.flatten(1)).relu())


class PooledNet(nn.Module):
    """Convolution, BatchNorm, ReLU (in place or not), global average pooling, dropout, linear: the form that CAM needs."""

    def __init__(self, inplace: bool = False, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=inplace)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.act2 = nn.ReLU(inplace=inplace)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv(self.act(self.norm(self.stem(x)))))
        return self.head(self.dropout(x.mean((2, 3))))


class Wrapped(nn.Module):
    """A network whose output, or whose way to it, is wrapped in a function."""

    def __init__(self, inner: nn.Module, wrap) -> None:
        super().__init__()
        self.inner = inner
        self.wrap = wrap

    def forward(self, x: Tensor):
        return self.wrap(self.inner(x))


class NormalizesInPlace(nn.Module):
    """Changes the tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PooledNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(0.5).div_(0.25))


class FrozenBackbone(nn.Module):
    """A backbone that runs in the model's own no_grad block."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x.square().mean((2, 3)))


class Raises(nn.Module):
    """Raises after its convolution, for as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.broken = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.broken:
            raise KeyError("the user's own exception")
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """A transformer in small: patches, tokens with a class token, one mixing layer, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.mix = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, dropout=0.0)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.new_zeros(len(x), 1, 12), x], 1)
        x = self.norm(self.mix(x))
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class Tail(nn.Module):
    """One convolution, and after it whatever a function makes of its map, two linear layers and what it may need else."""

    def __init__(self, tail) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.01, 0.1)
        nn.init.uniform_(self.norm.weight, -1, 1)
        self.plain_norm = nn.BatchNorm2d(6, affine=False)
        self.clamp = nn.Hardtanh(-0.2, 0.3, inplace=True)
        self.leaky = nn.LeakyReLU(0.3, inplace=True)
        self.fc = nn.Linear(6, 5)
        self.fc2 = nn.Linear(5, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self, self.conv(x))


def by_autograd(model: nn.Module, method, *args, **options):
    """An engine that finds no closed form, as somebody's hook is on the model."""
    from contextlib import ExitStack

    class Engine(method):
        def explain(self, *args, **kwargs):
            with ExitStack() as stack:
                handle = self.model.register_forward_hook(lambda *_: None)
                stack.callback(handle.remove)
                return super().explain(*args, **kwargs)

    return Engine(model, *args, **options)


class Residual(nn.Module):
    """Convolutions with BatchNorm, activations, sums and padding, as networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bn_a, self.bn_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.down, self.bn_down = nn.Conv2d(8, 16, 1, stride=2), nn.BatchNorm2d(16)
        self.pad = nn.ZeroPad2d(1)
        self.c, self.bn_c = nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.act = nn.Hardswish()
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(16, 5)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)

    def block(self, x):
        y = self.relu(self.bn_a(self.a(x)))
        y = self.bn_b(self.b(y))
        y += x
        return self.relu(y)

    def forward(self, x):
        x = self.block(self.relu(self.bn(self.stem(x))))
        y = self.act(self.bn_c(self.c(self.pad(x)))) + self.bn_down(self.down(x))
        return self.fc(self.dropout(y.mean((2, 3))))
