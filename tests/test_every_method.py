"""What holds of every method there is."""

import inspect
import pickle
import threading

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet
from torch import nn

import camfast
from camfast.methods import METHODS

X = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(3))
OPTIONS = {
    "refinecam": {"target_layers": ["act", "act2"]},
    "sscam": {"num_samples": 2},
    "iscam": {"num_samples": 2},
    "sess": {"num_scales": 2},
}
WITHOUT_LAYER = ("fullgrad", "guidedbackprop")
CLASS_AGNOSTIC = ("eigencam", "kpcacam", "fem", "random")
TRANSFORMERS = ("legrad",)
NOT_OF_CALLABLES = ("cam", "finercam")
ONE_CLASS_AT_A_TIME = ("sess",)
WEIGHED_BY_PROBABILITY = ("reciprocam", "sess")  # where there are classes


def the_methods(but=()):
    return pytest.mark.parametrize("name", [name for name in METHODS if name not in (*but, *TRANSFORMERS)])


def made(name, model, **options):
    layers = {} if name in WITHOUT_LAYER else {"target_layers": "act2"}
    return METHODS[name](model, **{**layers, **OPTIONS.get(name, {}), **options})


@pytest.fixture
def net():
    torch.manual_seed(5)
    model = PooledNet().eval()
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


def close(got, expected, within=1e-4):
    assert (got.double() - expected.double()).abs().max() <= within


@the_methods()
def test_gives_heatmaps_of_the_image(net, name):
    found = made(name, net).explain(X, [1, 3, 0])
    assert found.heatmaps.shape == (3, 20, 24)
    assert found.heatmaps.dtype == found.ranges.dtype == torch.float32
    assert found.heatmaps.min() == 0
    assert found.heatmaps.amax((1, 2)).sub(1).abs().max() <= 1e-6
    assert found.targets.tolist() == [1, 3, 0]
    close(found.logits, net(X), 1e-4)
    assert (found.ranges[:, 1] > found.ranges[:, 0]).all()


@the_methods()
def test_explains_the_predicted_class_unless_told_otherwise(net, name):
    found = made(name, net).explain(X)
    assert found.targets.tolist() == net(X).argmax(1).tolist()
    close(found.heatmaps, made(name, net)(X, net(X).argmax(1)))


@the_methods(but=NOT_OF_CALLABLES)
def test_explains_what_a_callable_makes_of_the_output(net, name):
    found = made(name, net).explain(X, lambda output: output[1])
    assert found.targets is None
    if name not in WEIGHED_BY_PROBABILITY:
        close(found.heatmaps, made(name, net)(X, 1), 2e-4)


@the_methods(but=ONE_CLASS_AT_A_TIME)
def test_explains_several_classes_at_once(net, name):
    found = made(name, net).explain(X, camfast.TopK(2))
    top = net(X).topk(2).indices
    assert found.heatmaps.shape == (3, 2, 20, 24)
    assert found.ranges.shape == (3, 2, 2)
    assert found.targets.equal(top)
    for k in range(2):
        close(found.heatmaps[:, k], made(name, net)(X, top[:, k]))


@the_methods()
def test_a_batch_is_its_samples_one_by_one(net, name):
    together = made(name, net)(X, [1, 3, 0])
    for i in range(3):
        close(made(name, net)(X[i : i + 1], [[1, 3, 0][i]]), together[i : i + 1])


@the_methods()
def test_the_size_may_be_chosen(net, name):
    assert made(name, net)(X, 1, size=(7, 9)).shape == (3, 7, 9)
    unscaled = made(name, net).explain(X, 1, normalize=False)
    low, high = unscaled.heatmaps.amin((1, 2)), unscaled.heatmaps.amax((1, 2))
    close(torch.stack([low, high], 1), unscaled.ranges, 1e-4 * float(high.abs().max()))


@the_methods()
def test_leaves_no_trace(name):
    model = PooledNet(inplace=True).train()
    before = fingerprint(model)
    made(name, model)(X.clone(), 1)
    assert_same(before, fingerprint(model))


@the_methods()
def test_leaves_no_trace_of_a_call_that_raised(net, name):
    class Trouble(Exception):
        pass

    def raises(output):
        raise Trouble

    cam, before = made(name, net), fingerprint(net)
    if name in CLASS_AGNOSTIC:  # which do not look at the score
        cam(X, raises)
    else:
        with pytest.raises((Trouble, ValueError)):
            cam(X, raises)
    assert_same(before, fingerprint(net))


@the_methods()
def test_a_frozen_model_under_every_grad_mode(net, name):
    expected = made(name, net)(X, 1)
    net.requires_grad_(False)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = made(name, net)(X, 1)
        close(found, expected)
        assert not found.requires_grad
        assert not found.is_inference()


@the_methods()
def test_layers_that_work_in_place(name):
    torch.manual_seed(5)
    model, other = PooledNet(inplace=True).eval(), PooledNet().eval()
    other.load_state_dict(model.state_dict())
    before = X.clone()
    close(made(name, model)(X, 1), made(name, other)(X, 1))
    assert X.equal(before)


@the_methods()
def test_a_model_in_bfloat16(net, name):
    heatmaps = made(name, net.bfloat16())(X.bfloat16(), 1)
    assert heatmaps.dtype == torch.float32
    assert heatmaps.isfinite().all()


@the_methods()
def test_what_is_not_finite_touches_no_other_sample(net, name):
    spoiled = X.clone()
    spoiled[1, 0, 5, 5] = torch.nan
    cam = made(name, net)
    expected = cam(X, 1)
    found = cam.explain(spoiled, 1)
    assert (found.heatmaps[1] == 0).all()
    assert found.ranges[1].isnan().all()
    close(found.heatmaps[::2], expected[::2])
    assert found.ranges[::2].isfinite().all()


@the_methods()
def test_images_of_nothing(net, name):
    found = made(name, net).explain(torch.zeros(2, 3, 20, 24), 1)
    assert found.heatmaps.isfinite().all()


@the_methods()
def test_an_empty_batch(net, name):
    found = made(name, net).explain(X[:0], 1)
    assert found.heatmaps.shape == (0, 20, 24)


@the_methods()
def test_images_of_one_channel(name):
    torch.manual_seed(5)
    model = PooledNet().eval()
    model.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
    assert made(name, model)(X[:, :1], 1).isfinite().all()


@the_methods()
def test_two_threads_on_one_engine(net, name):
    cam = made(name, net)
    expected = [cam(X, c) for c in (1, 3)]
    found = [None, None]

    def explain(i):
        found[i] = cam(X, (1, 3)[i])

    threads = [threading.Thread(target=explain, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        close(one, other)


@the_methods()
def test_survives_pickling(net, name):
    cam = made(name, net)
    expected = cam(X, 1)
    close(pickle.loads(pickle.dumps(cam))(X, 1), expected)


@the_methods()
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (5, "targets has class 5; expected 0 to 4"),
        ([1, 2], "targets has 2 entries for a batch of 3"),
        ("cat", "targets='cat' is a str"),
    ],
)
def test_wrong_targets(net, name, targets, message):
    with pytest.raises(ValueError, match=message):
        made(name, net)(X, targets)


@the_methods()
@pytest.mark.parametrize("wrong", [X[0], X.int(), "image"])
def test_images_that_are_none(net, name, wrong):
    with pytest.raises((ValueError, TypeError), match="x (has|is)"):
        made(name, net)(wrong)


@the_methods(but=WITHOUT_LAYER)
def test_a_layer_that_is_not_there(net, name):
    with pytest.raises(ValueError, match="target layer 'act3' is not in the model; did you mean"):
        METHODS[name](net, ["act3", "act2"])


@the_methods()
def test_explains_in_one_call(net, name):
    layers = {} if name in WITHOUT_LAYER else {"target_layers": "act2"}
    found = camfast.explain(net, X, name, targets=1, **{**layers, **OPTIONS.get(name, {})})
    close(found.heatmaps, made(name, net)(X, 1))


@the_methods()
def test_settings_and_repr(net, name):
    cam = made(name, net)
    assert cam.settings["method"] == METHODS[name].__name__
    assert METHODS[name].__name__ in repr(cam)
    assert METHODS[name].__doc__


@the_methods()
def test_the_score_decides_but_for_methods_that_look_at_activations_alone(net, name):
    cam = made(name, net)
    difference = (cam(X, 1) - cam(X, 3)).abs().max()
    assert difference == 0 if name in CLASS_AGNOSTIC else difference > 1e-3


@the_methods()
def test_an_option_that_there_is_not(net, name):
    with pytest.raises(TypeError, match="has no option 'target_layer'; did you mean target_layers"):
        METHODS[name](net, target_layer="act2", **OPTIONS.get(name, {}))


@the_methods()
@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_normalize_that_is_neither_true_nor_false(net, name, wrong):
    with pytest.raises(ValueError, match="normalize=.*; expected True or False"):
        made(name, net).explain(X, 1, normalize=wrong)


def test_a_method_by_its_class_or_by_a_name_in_any_case():
    assert camfast.methods.get_method("Grad-CAM++") is camfast.GradCAMPlusPlus
    assert camfast.methods.get_method("Layer CAM") is camfast.methods.get_method(camfast.LayerCAM) is camfast.LayerCAM
    with pytest.raises(ValueError, match=r"method=None; expected a name in camfast\.METHODS, or a class of one"):
        camfast.methods.get_method(None)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "maxvit_pico_rw_256"])
def test_a_copy_of_a_model_with_buffers_of_other_ranks(name):
    timm = pytest.importorskip("timm")
    size = 256 if "256" in name else 224
    model = timm.create_model(name, pretrained=False, num_classes=4).eval()
    x = torch.randn(1, 3, size, size)
    expected = camfast.GradCAM(model)(x, 1)
    close(camfast.GradCAM(model, optimize="inference")(x, 1), expected, 1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_signature_has_all_options_with_their_defaults(name):
    """Which editors and help show."""
    parameters = inspect.signature(METHODS[name]).parameters
    assert list(parameters)[:3] == ["model", "target_layers", "reshape_transform"]
    assert all(each.kind is not each.VAR_POSITIONAL for each in parameters.values())
    if "base" in parameters:  # whose options are those of the base
        return
    assert all(each.kind is not each.VAR_KEYWORD for each in parameters.values())
    assert {"output", "optimize", "precision", "graphs"} <= set(parameters)
    expected = "inference" if name in ("scorecam", "sscam", "iscam") else "none"
    assert parameters["optimize"].default == expected


def test_a_signature_of_a_class_of_ones_own():
    class Mine(camfast.GradCAM):
        def __init__(self, model, *, power: float = 2, **options):
            super().__init__(model, **options)

    model, *named = inspect.signature(Mine).parameters.values()
    assert model.name == "model"
    assert all(each.kind is each.KEYWORD_ONLY for each in named)
    expected = [
        "power",
        "target_layers",
        "reshape_transform",
        "eigen_smooth",
        "output",
        "optimize",
        "precision",
        "graphs",
    ]
    assert [each.name for each in named] == expected
