"""Train the SimpleCNN of the tutorials, for real, and see with CAM and Grad-CAM what it looks at.

    python examples/cifar10_gradcam.py --data DIR     CIFAR-10, where DIR holds cifar-10-batches-py
    python examples/cifar10_gradcam.py                without it: is there a face in this picture?

Without CIFAR-10, pictures are put together from the faces and other patches of photos that scikit-image ships (of
Labeled Faces in the Wild): four patches each, with one face among them or none. The network is told only whether there
is a face. Where it is, the heat has to find, and as that is known here, it can be checked.

Two networks are trained. SimpleCNN ends in two linear layers, as in the tutorials, so Grad-CAM is needed to look into
it. CAM needs a network that pools its last map and has one linear layer after that: the same convolutions, pooled.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import camfast

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32


class SimpleCNN(nn.Module):
    """Three convolutions, each with ReLU and pooling, then two linear layers; or, pooled, one after the mean."""

    def __init__(self, classes: int, pooled: bool = False) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        if pooled:
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
        else:
            linear = nn.Linear(128 * (SIDE // 8) ** 2, 512), nn.ReLU(), nn.Linear(512, classes)
            self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), *linear)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.pool(self.relu2(self.conv2(x)))
        return self.head(self.relu3(self.conv3(x)))


@dataclass
class Pictures:
    """What to train with, and to test with."""

    name: str
    classes: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    """uint8 [N, 32, 32, 3], and classes [N]."""
    faces: Tensor | None = None
    """Of the test pictures: which quarter has the face, -1 for none."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("out/cifar10_gradcam"))
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder of cifar-10-batches-py; nothing is downloaded")
    parser.add_argument(
        "--train", metavar="N", type=int, help="pictures to train with (default: 2000; CIFAR-10: 10000)"
    )
    parser.add_argument("--epochs", metavar="N", type=int, help="default: 5; CIFAR-10: 2")
    parser.add_argument("--quick", action="store_true", help="400 pictures to train with")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    count = options.train or (400 if options.quick else 2000 if options.data is None else 10_000)
    pictures = scenes(count) if options.data is None else cifar10(options.data, count)
    epochs = options.epochs or (5 if options.data is None else 2)
    print(f"{pictures.name}: {len(pictures.train[0])} to train with, {len(pictures.test[0])} to test with")
    curves = {}
    engines = {}
    for name, pooled, method in (("SimpleCNN", False, camfast.GradCAM), ("SimpleCNN, pooled", True, camfast.CAM)):
        model = SimpleCNN(len(pictures.classes), pooled)
        curves[name] = train(name, model, pictures, epochs)
        engines[name] = method(model, "relu3")
    draw_curves(curves, options.output / "loss.png")
    explain(engines, pictures, options.output / "explained.png")


def train(name: str, model: nn.Module, pictures: Pictures, epochs: int) -> list[float]:
    """The loss of every step."""
    images, targets = pictures.train
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(ready(images[batch])), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        last = losses[-(len(images) // 64) :]
        said = f"loss {sum(last) / len(last):.3f}, accuracy on the test pictures {accuracy(model, pictures.test):.1%}"
        print(f"{name}: epoch {epoch + 1} of {epochs}: {said}", flush=True)
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    model.eval()
    right = [
        (model(ready(images)).argmax(dim=1) == targets).float()
        for images, targets in zip(test[0].split(256), test[1].split(256), strict=True)
    ]
    return torch.cat(right).mean().item()


def explain(engines: dict[str, camfast.GradCAM | camfast.CAM], pictures: Pictures, file: Path) -> None:
    """One test picture in three panels for each network; where the faces are known, how often the heat is on them."""
    images, targets = pictures.test
    shown = next(iter(engines.values())).explain(ready(images)).logits.argmax(dim=1)
    right = (shown == targets).nonzero()[:, 0]
    # A picture of the first class that the network is right about, a wrong one where it never is.
    example = int(right[(targets[right] == 0)][0]) if (targets[right] == 0).any() else 0

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    for (name, engine), axes in zip(engines.items(), figure.subplots(2, 3), strict=True):
        result = engine.explain(ready(images[example : example + 1]), size=(256, 256))
        predicted = int(result.targets[0])
        probability = result.logits.softmax(dim=1)[0, predicted].item()
        large = images[example].numpy().repeat(8, axis=0).repeat(8, axis=1)
        camfast.panels(large, result.heatmaps[0], ax=axes)
        method = type(engine).__name__
        true = pictures.classes[targets[example]]
        title = f"{method} of {name}: true {true}, predicted {pictures.classes[predicted]} ({probability:.1%})"
        axes[1].set_title(f"{title}\n\nheatmap", fontsize=10)
        print(title)
        if pictures.faces is not None:
            found, of = pointed_at(engine, images, pictures.faces)
            print(f"  the hottest spot is on the face in {found} of {of} pictures with one; by chance {of / 4:.0f}")
    figure.savefig(file, dpi=120)
    print(f"  {file}")


def pointed_at(engine: camfast.GradCAM | camfast.CAM, images: Tensor, faces: Tensor) -> tuple[int, int]:
    """In how many pictures the maximum of the heat for a face lies on it, and how many have one."""
    with_face = faces >= 0
    heat = engine(ready(images[with_face]), 0)
    hottest = heat.flatten(1).argmax(dim=1)
    quarter = 2 * (hottest // SIDE >= SIDE // 2) + (hottest % SIDE >= SIDE // 2).long()
    return int((quarter == faces[with_face]).sum()), int(with_face.sum())


def draw_curves(curves: dict[str, list[float]], file: Path) -> None:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    for name, losses in curves.items():
        window = max(len(losses) // 50, 1)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axis.plot(np.arange(len(smooth)) + window, smooth, label=name)
    axis.set(xlabel="step", ylabel=f"loss, mean of {window} steps", ylim=(0, None), title="training")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    print(f"  {file}")


def ready(images: Tensor) -> Tensor:
    """What the network takes: float32 [N, 3, 32, 32] from uint8 [N, 32, 32, 3]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def cifar10(folder: Path, count: int) -> Pictures:
    """Some of the 50000 pictures to train with, as two minutes are short, and 2000 of the 10000 to test with."""
    from torchvision.datasets import CIFAR10 as Files

    try:
        train, test = Files(str(folder), train=True), Files(str(folder), train=False)
    except RuntimeError as error:
        raise SystemExit(f"CIFAR-10 is not in {folder}: {error}; leave --data out for other pictures") from None
    parts = [
        (torch.from_numpy(part.data[:most]), torch.tensor(part.targets[:most]))
        for part, most in ((train, count), (test, 2000))
    ]
    return Pictures("CIFAR-10", CIFAR10, parts[0], parts[1])


def scenes(count: int) -> Pictures:
    """Pictures of four patches of photos, half of them with one face among the four."""
    from skimage.data import lfw_subset

    patches = torch.from_numpy(lfw_subset()).float()  # [200, 25, 25]: 100 faces, then 100 others
    faces, others = patches[:100], patches[100:]
    # The faces and patches of the test pictures are in no picture to train with.
    train, _ = _scenes(faces[:70], others[:70], count)
    test, where = _scenes(faces[70:], others[70:], min(count, 400))
    return Pictures("faces of scikit-image", ("face", "no face"), train, test, where)


def _scenes(faces: Tensor, others: Tensor, count: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    chosen = others[torch.randint(len(others), (count, 4))]
    where = torch.where(torch.arange(count) % 2 == 0, torch.randint(4, (count,)), -1)
    for picture, quarter in enumerate(where.tolist()):
        if quarter >= 0:
            chosen[picture, quarter] = faces[torch.randint(len(faces), ())]
    mirrored = torch.rand(count, 4) < 0.5
    chosen = torch.where(mirrored[..., None, None], chosen.flip(-1), chosen)
    joined = torch.cat([torch.cat(list(chosen[:, row : row + 2].unbind(1)), dim=2) for row in (0, 2)], dim=1)
    small = nn.functional.interpolate(joined[:, None], (SIDE, SIDE), mode="bilinear", antialias=True)
    images = (small * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    return (images, (where < 0).long()), where


if __name__ == "__main__":
    main()
