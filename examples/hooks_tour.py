"""A tour of hooks: look into a network while it runs, and change what it does, without leaving anything behind.

    python examples/hooks_tour.py

Every stop says what it shows, and prints it. The network is small and has random weights: it takes seconds.
"""

import warnings

import torch
from torch import nn

import camfast
from camfast import hooks


class SmallNet(nn.Module):
    """Two convolutions with ReLUs that work in place, global average pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        return self.head(x.mean((2, 3)))


class Times3Times2(nn.Module):
    """A module of two operations: y = 6 x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 3) * 2


def stop(title: str, text: str) -> None:
    print(f"\n== {title}\n{text}\n")


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def callbacks(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "A callback",
        "A callback is a function that you hand over, and somebody else calls. Here the network calls it after every\n"
        "layer, with the layer's name, the module, what went in and what came out.",
    )

    def show(name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        print(f"  {name:<6} {type(module).__name__:<7} {list(inputs[0].shape)} -> {list(output.shape)}")

    with camfast.on_forward(model, "*", show):
        model(x)


def callback_decorator(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "A callback decorator",
        "The same as a decorator: whenever the function below it runs, the callback is on, and only then.",
    )
    heard = []

    @camfast.on_forward(model, nn.Conv2d, lambda name, module, inputs, output: heard.append(name))
    def predict(images: torch.Tensor) -> torch.Tensor:
        return model(images).argmax(1)

    predict(x)
    print(f"  heard while predict() ran: {heard}")
    model(x)
    print(f"  and after another pass without it: {heard}")


def forward_hook(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "A forward hook",
        "capture() keeps what layers put out. The ReLU after conv1 works in place and overwrites what conv1 put out;\n"
        "what was captured is a copy from before that, and still has negative values.",
    )
    kept = []
    handle = model.conv1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with camfast.capture(model, ["conv1", "relu1"]) as seen:
        model(x)
    handle.remove()
    print(f"  smallest value, by a plain hook that keeps the output: {kept[0].min().item():.4f}")
    print(f"  smallest value, captured:                              {seen.activations['conv1'].min().item():.4f}\n")
    print(seen.summary())


def backward_hook(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "A backward hook",
        "Gradients come back in the other order. A layer's gradient says how the score would change with its output.",
    )

    def show(name: str, module: nn.Module, gradient: torch.Tensor) -> None:
        print(f"  {name:<6} norm of the gradient {gradient.norm().item():.4f}")

    with camfast.on_backward(model, "*", show):
        model(x)[:, 0].sum().backward()

    print(
        "\n  PyTorch's old register_backward_hook takes a module's last operation for all of it. For y = (x * 3) * 2:"
    )
    module, value = Times3Times2(), torch.ones(1, requires_grad=True)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, for this reason
        handle = module.register_backward_hook(lambda module, inputs, outputs: found.append(inputs[0].item()))
        module(value).backward()
        handle.remove()
    net = nn.Sequential(nn.Identity(), Times3Times2())
    with camfast.capture(net, "0") as seen:
        net(torch.ones(1)).backward()
    print(f"  dy/dx by that hook: {found[0]:.0f}; by capture(): {seen.gradients['0'].item():.0f}; by hand: 3 * 2 = 6")


def tensor_hook(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "A tensor hook",
        "Not everything is a layer: the pooled features here are a tensor in the middle of a computation. PyTorch\n"
        "drops the gradients of such tensors; capture_tensor() keeps one, and leaves no retain_grad on the tensor.",
    )
    features = model.relu2(model.conv2(model.relu1(model.conv1(x)))).mean((2, 3))
    with camfast.capture_tensor(features) as seen:
        model.head(features)[:, 0].sum().backward()
    same = seen.gradient[0].equal(model.head.weight[0])
    print(f"  the gradient {list(seen.gradient.shape)} of logit 0 is row 0 of the linear layer's weights: {same}")
    print(f"  retain_grad left on the tensor: {features.retains_grad}")


def edited_gradient(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "An edited gradient",
        "A hook may replace the gradient that passes. Everything before that layer learns from the new one.",
    )

    def norm_of_conv1() -> float:
        model.zero_grad()
        model(x)[:, 0].sum().backward()
        return model.conv1.weight.grad.norm().item()

    plain = norm_of_conv1()
    print(f"  gradient of conv1's weights, plain:                 {plain:.4f}")
    with camfast.edit_gradients(model, "conv2", hooks.scale(0.5)):
        print(f"  with the gradient halved at conv2:                  {norm_of_conv1():.4f}")
    with camfast.edit_gradients(model, "conv2", hooks.clip_norm(0.01)):
        print(f"  with it clipped to a norm of 0.01 at conv2:         {norm_of_conv1():.4f}")
    with camfast.edit_gradients(model, "conv2", lambda gradient: torch.zeros_like(gradient)):
        print(f"  with an edit of your own, that lets nothing past:   {norm_of_conv1():.4f}")
    print(f"  after the blocks, as before:                        {norm_of_conv1() == plain}")
    try:
        with camfast.edit_gradients(model, "conv2", lambda gradient: gradient[:, :1]):
            norm_of_conv1()
    except ValueError as error:
        print(f"  an edit that changes the shape is refused:\n    {error}")
    model.zero_grad()


def edited_activation(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "An edited activation",
        "What goes forward can be replaced too. prune() sets channels of a layer to zero and reports what that does.",
    )
    print(hooks.prune(model, "relu2", range(8), x))


def training(x: torch.Tensor) -> None:
    stop(
        "Training, watched",
        "GradientMonitor records the norm of every layer's gradient, step by step. Ten layers with a sigmoid between\n"
        "them show how gradients vanish on the way back.",
    )
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))
    for _ in range(9):
        model.extend([nn.Sigmoid(), nn.Linear(8, 8)])
    model(x)  # gives the lazy layer its shape
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with camfast.GradientMonitor(model, nn.Linear, vanishing=1e-6) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            monitor.step()
    print(monitor)


def handles_removed(model: nn.Module, x: torch.Tensor) -> None:
    stop(
        "Handles, removed",
        "A hook that stays is a leak: it slows every pass, and holds memory. Here they go with the block, however it\n"
        "ends.",
    )
    with camfast.capture(model, "*"):
        print(f"  hooks in the block:                  {count_hooks(model)}")
    print(f"  after it:                            {count_hooks(model)}")
    try:
        with camfast.capture(model, "*"):
            model(x[:, :1])  # a wrong number of channels
    except RuntimeError:
        print(f"  after an error in the model:         {count_hooks(model)}")

    def passes():
        with camfast.capture(model, "*") as seen:
            while True:
                model(x)
                yield seen

    generator = passes()
    next(generator)
    del generator
    print(f"  after a generator that was dropped:  {count_hooks(model)}")


def main() -> None:
    torch.manual_seed(0)
    model, x = SmallNet(), torch.randn(4, 3, 16, 16)
    callbacks(model, x)
    callback_decorator(model, x)
    forward_hook(model, x)
    backward_hook(model, x)
    tensor_hook(model, x)
    edited_gradient(model, x)
    edited_activation(model, x)
    training(x)
    handles_removed(model, x)


if __name__ == "__main__":
    main()
