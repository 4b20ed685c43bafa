"""Grad-CAM, and what all methods take as arguments."""

from __future__ import annotations

from torch import Tensor

from camfast.maps import LayerMap
from camfast.methods.base import RuleMethod
from camfast.passes import GradientPass


class GradCAM(RuleMethod):
    """Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    A channel's weight is the mean over positions of the gradient of the score; the map is the weighted sum of the
    activations, its negative part cut off.

    >>> cam = camfast.GradCAM(model)  # doctest: +SKIP
    >>> heatmaps = cam(x)             # doctest: +SKIP

    The model is explained as in evaluation mode and is left exactly as it was. Frozen models, ``no_grad``,
    ``inference_mode``, in-place operations, half precision and autocast need no preparation. One engine may be used
    from several threads. Backward hooks of your own on modules after the layer fire, as in any backward pass.

    Args:
        model: any module that maps [N, C, H, W] to logits [N, classes]. DataParallel and ``torch.compile`` wrappers
            are looked through: the module inside runs, eagerly, on its own device. Of a ScriptModule, a copy runs,
            which is cut at the one layer that is named.
        target_layers: modules, dotted names, globs of names or types; None finds the last layer with a feature map at
            the first call, or, of a transformer, what enters the last attention. Several layers are normalized each, at
            their own size, averaged, and normalized again. A layer that runs several times in one forward pass counts
            with its last run.
        reshape_transform: makes [N, C, h, w] of what the layer puts out, and of its gradient, where it is not that
            already. Channels that come last, and tokens, are read as maps without it where there is no doubt.
        output: which part of the model's output has the logits, where that is not a tensor: a key, an index, or a
            callable.
        optimize: ``"none"``: the model itself runs. ``"inference"``: a copy of it, with BatchNorm folded into
            convolutions, channels-last, and on the CPU with packed weights. ``"compile"``: a copy, by
            ``torch.compile``, which takes up to minutes for every new shape of input. The copy is made in the first
            call, from the model's graph, checked against the model, and made again when the model's weights change;
            hooks on the model do not see it. What cannot be done is left out, and ``cam.plan`` says why.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` for a copy in that precision; None for the model's own;
            ``"int8"`` for one whose convolutions, up to the layer, are of 8-bit integers: of images, on x86 processors
            with AVX-512 VNNI, whatever ``optimize`` is, which is then for what follows the layer. Heatmaps are
            float32, and logits have the model's precision, always.
        graphs: record explanations on a CUDA device as CUDA graphs, one for every shape, and replay them. A batch
            smaller than the one recorded is padded.
        eigen_smooth: the map is the first principal component of the weighted activations, where it would be their
            sum: what varies together over the channels stays, the rest, taken for noise, goes. Its sign is that of
            :func:`camfast.projection.first_component`.

    Raises:
        TypeError: ``model`` is not a module, or is a ScriptModule and no one layer is named.
        ModelError: a ScriptModule cannot be cut at the layer; the message says what to do.
        ValueError: a layer is not in the model (the message has the closest names); an unknown ``optimize`` or
            ``precision``.
    """

    rule = "gradcam"

    def _map_of(self, name: str, activations: Tensor, result: GradientPass) -> LayerMap:
        if result.mean is not None:  # which is the weight of a channel
            return self._form(self._feature_maps(name, activations), weights=result.mean)
        return super()._map_of(name, activations, result)
