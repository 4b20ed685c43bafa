"""Composes layer, plan, rule and operator: what every method of the family has in common."""

from __future__ import annotations

import math
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from camfast.allocator import HeapRoom
from camfast.errors import is_out_of_memory
from camfast.explainer import Explainer, Size, check_size
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch, Inputs, check_inputs, normal_tensors
from camfast.layer_runs import LayerRun, trace_sample
from camfast.layers import Layers, resolve_layers
from camfast.maps import LayerMap, combine
from camfast.optimize.graphs import Graphs
from camfast.options import check_flag, refuse_unknown
from camfast.outputs import Chosen, Selector
from camfast.passes import prepared
from camfast.plan import Plan
from camfast.planner import Options, make_plan
from camfast.proof import Subject, samples_are_independent
from camfast.reading import MapReader
from camfast.runners import ModelRunner
from camfast.scripted import opened
from camfast.structure import Structure, is_hooked, modules_of
from camfast.target_layer import find_target_layer
from camfast.targets import Classes, Scores, Target, check_targets
from camfast.trees import mapped, tensors_in
from camfast.wrappers import plain_module


@dataclass
class _Made:
    """A plan, what it was made for, and what it made."""

    structure: Structure
    form: tuple[Any, ...]
    runner: ModelRunner
    plan: Plan
    graphs: Graphs | None
    room: HeapRoom | None
    """Kept as long as there may be further passes."""
    classes: int | None = None
    """How many the model has; None until it has run."""

    def fits(self, batch: Batch) -> bool:
        """Whether it is for inputs of this form, and the model still as it was."""
        return self.form == batch.form and self.structure.still_holds() and not self._is_beyond(batch)

    def _is_beyond(self, batch: Batch) -> bool:
        """Whether images are larger than all that the plan was made for; what is not finite needs no other."""
        if self.plan.reach is None:
            return False
        low, high = batch.images.detach().aminmax()
        return self.plan.reach < max(-float(low), float(high)) < math.inf

    def plan_now(self) -> Plan:
        """The plan, with what has turned out since."""
        troubles = [*self.runner.troubles(), None if self.graphs is None else self.graphs.trouble]
        return replace(self.plan, notes=(*self.plan.notes, *filter(None, troubles)))


class Engine(Explainer):
    """A method that runs the model itself. See :class:`camfast.GradCAM` for arguments and results."""

    parameters: Mapping[str, Any] = MappingProxyType({})
    """What the method takes beside what all take, by name."""
    multiplies: ClassVar[bool] = True
    """Whether the method has a map of each layer, for RefineCAM."""
    uses_gradients: ClassVar[bool] = True
    """Whether the method asks its runner for gradients."""
    joined: Callable[[Sequence[LayerMap], MapForm], tuple[Tensor, Tensor]] = staticmethod(combine)
    """Makes one heatmap of those of several layers."""
    finding: Callable[[Sequence[LayerRun]], str | list[str]] = staticmethod(find_target_layer)
    """Finds the target layers where none are given."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        output: Selector | None = None,
        optimize: str = "none",
        precision: str | None = None,
        graphs: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown)
        if reshape_transform is not None and not callable(reshape_transform):
            found = type(reshape_transform).__name__
            raise TypeError(f"reshape_transform is a {found}; expected a callable that makes [N, C, h, w]")
        check_flag("graphs", graphs)
        if isinstance(model, torch.jit.ScriptModule):
            model, target_layers = opened(model, target_layers)
        self.model = plain_module(model)
        self.reshape_transform = reshape_transform
        self.output = output
        self._options = Options(optimize, precision)
        self._graphs = graphs
        self._layers: Mapping[str, nn.Module] | None = None
        self._finds_layers = target_layers is None
        if target_layers is not None:
            self._layers = resolve_layers(self.model, target_layers)
        self._lock = threading.RLock()
        self.forget()

    def forget(self) -> None:
        """Makes the next call plan anew, and copy the model's weights again where copies run.

        Needed only after weights were changed in a way that PyTorch does not count (through ``.data``, or NumPy).
        """
        self._made: _Made | None = None

    @property
    def target_layers(self) -> list[str] | None:
        """Dotted names of the target layers; None until the first call where they are still to be found."""
        return None if self._layers is None else list(self._layers)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with; layers are None where the engine finds them."""
        layers = None if self._finds_layers else self.target_layers
        return {"method": type(self).__name__, "target_layers": layers, **self.parameters, **asdict(self._options)}

    @property
    def plan(self) -> Plan | None:
        """How the model is explained, and why; None until the first call, which decides it. Print it."""
        return None if self._made is None else self._made.plan_now()

    def logits(self, x: Inputs) -> Tensor:
        with prepared(self.model), torch.no_grad():
            output = normal_tensors(check_inputs(x)).call(self.model)
            return Chosen(self.output, type(self).__name__).select(output)

    @property
    def subject(self) -> Subject:
        """What is explained; the layers are known after the first call, or where they were given."""
        assert self._layers is not None
        chosen = Chosen(self.output, type(self).__name__)
        return Subject(self.model, self._layers, chosen.select, chosen.pick, self.reshape_transform is not None)

    def explain(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Explanation:
        """Explain a batch.

        Args:
            x: what the model takes: images [N, C, H, W]; or several inputs, as a tuple or as a dict by name, the first
                of four dimensions being the images. A tensor with as many entries as there are images is taken to
                have one of each.
            targets: None (the predicted class of every sample), a class for all, a sequence of N classes, a LongTensor
                [N], or callables (one, or N) that map one sample's output to a scalar tensor, as
                :class:`camfast.SoftmaxTarget`, :class:`camfast.SegmentationTarget` and others do. For several classes
                of every sample, from one forward pass: :class:`camfast.TopK`, N lists of K classes, or a LongTensor
                [N, K]. Classes given as a tensor on a CUDA device are checked there, which waits for the device.
            size: (height, width) of the heatmaps; None takes that of the images, ``"layer"`` that of the target layer
                (the largest of several), which :func:`camfast.overlay` enlarges as it draws.
            normalize: stretch every map to [0, 1].

        Returns:
            Heatmaps, logits, targets and ranges, on the device of the images; with a dimension K after the first in
            heatmaps, targets and ranges where several classes were asked for.

        Raises:
            TypeError: the images are not a floating tensor, or a layer or the model puts out no tensor.
            ValueError: wrong targets, a layer that did not run, activations that are no feature maps. Whatever the
                model itself raises comes through unchanged.
            torch.OutOfMemoryError: the memory does not suffice for half of the batch either. The first time halves
                the batch, with a RuntimeWarning.
        """
        batch = check_inputs(x)
        check_flag("normalize", normalize)
        wanted = check_targets(targets, len(batch))
        form = MapForm(check_size(size, batch.size), normalize)
        if self._graphs and not batch.images.is_cuda:
            raise ValueError(f"graphs=True needs images on a CUDA device; x is on {batch.images.device}")
        if len(batch) == 0:
            return self._explain_nothing(batch, targets, form)
        try:
            return self._run(batch, wanted, form)
        except Exception as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        # Out of the handler, whose traceback would hold on to what was allocated.
        return self._explain_halves(batch, wanted, form)

    def _run(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        """Explain a batch that is not empty, by the plan of the first call, or a new one where it has changed."""
        made = self._made
        if made is None or not made.fits(batch):
            with self._lock:
                made = self._made  # which another thread may have made meanwhile
                if made is None or not made.fits(batch):
                    made = self._planned(batch)
                    # What is not finite proves nothing: a plan made of it is for this call alone.
                    self._made = made if bool(batch.images.isfinite().all()) else None
        with torch.inference_mode(False), torch.no_grad():  # whatever the caller's modes are
            explained = self._replayed(made, batch, targets, form)
            if explained is None:
                explained = self._explain(made.runner, batch, targets, form)
            if self._options.copies and batch.images.device.type == "cpu":
                # oneDNN's ReLU makes zero of NaN, which then is nowhere to be seen.
                explained = explained.without(~batch.images.detach().flatten(1).sum(1).isfinite())
        made.structure.settle()
        made.classes = explained.logits.shape[1] if explained.logits.dim() == 2 else None
        return explained

    def _replayed(self, made: _Made, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation | None:
        """By a CUDA graph, where graphs were asked for and can be had."""
        if made.graphs is None:
            return None
        if made.classes is None or is_hooked(modules_of(self.model)):
            return None  # the first call shows how many classes there are; hooks would not see a replay
        if isinstance(targets, Classes):
            targets.check(made.classes)
        return made.graphs.explain(lambda b, t: self._explain(made.runner, b, t, form), batch, targets, form)

    def _planned(self, batch: Batch) -> _Made:
        runs: list[LayerRun] | None = None
        if self._layers is None:
            self._layers, runs = self._find_layers(batch)
        subject = self.subject
        # Whatever the caller's modes are, the plan outlives them.
        with torch.inference_mode(False), torch.autocast(batch.images.device.type, enabled=False):
            runner, plan = self._make_plan(subject, normal_tensors(batch))
            pad = self._graphs and samples_are_independent(subject, normal_tensors(batch))
        if self.reshape_transform is None:
            self._reader = MapReader(self.model, self._layers, runs)
            runner = self._reader.watch(runner)
        structure = Structure(self.model, weights=self._options.copies or self._graphs)
        graphs = Graphs(pad=pad) if self._graphs else None
        room = HeapRoom.shared() if batch.images.device.type == "cpu" else None
        return _Made(structure, batch.form, runner, plan, graphs, room)

    def _make_plan(self, subject: Subject, batch: Batch) -> tuple[ModelRunner, Plan]:
        """What runs the model, and why; see :func:`camfast.planner.make_plan`."""
        return make_plan(subject, batch, self._options, gradients=self.uses_gradients)

    @abstractmethod
    def _explain(self, runner: ModelRunner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        """Explain a batch that is not empty."""

    def _explain_halves(self, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        samples = len(batch)
        half = (samples + 1) // 2
        warnings.warn(
            f"out of memory with a batch of {samples}: explaining {half} samples at a time",
            RuntimeWarning,
            stacklevel=3,
        )
        if batch.images.is_cuda:
            torch.cuda.empty_cache()
        try:
            parts = [
                self._run(batch.part(begin, end), targets.part(begin, end), form)
                for begin, end in ((0, half), (half, samples))
            ]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"out of memory with a batch of {samples}, and also with {half} samples at a time; give fewer"
            ) from error
        return parts[0].joined(parts)

    def _find_layers(self, batch: Batch) -> tuple[dict[str, nn.Module], list[LayerRun]]:
        runs = trace_sample(self.model, batch)
        return resolve_layers(self.model, self.finding(runs)), runs

    def _explain_nothing(self, batch: Batch, targets: Target, form: MapForm) -> Explanation:
        # Many models reshape with -1 and cannot take an empty batch, so one blank sample shows what comes out.
        blank = batch.per_sample(lambda t: t.new_zeros((1, *t.shape[1:])))
        wanted = check_targets(targets, 0)
        if isinstance(wanted, Scores) or wanted.indices is None:
            shown = check_targets(targets, 1)
        else:
            shown = Classes(wanted.indices.new_zeros((1, *wanted.indices.shape[1:])))
        return self._run(blank, shown, form).part(0, 0)

    def _feature_maps(self, name: str, tensor: Tensor) -> Tensor:
        """What a layer put out, or its gradient, as [N, C, h, w], or [N, C, d, h, w] of volumes."""
        if self.reshape_transform is None:
            return self._reader.maps(name, tensor)
        maps = self.reshape_transform(tensor)
        if not isinstance(maps, Tensor) or maps.dim() not in (4, 5):
            found = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(f"reshape_transform made {found} of layer {name!r}; expected [N, C, h, w]")
        return maps

    def _gradient_maps(self, name: str, gradients: Tensor, activations: Tensor) -> Tensor:
        """The gradients at a layer, as [N, C, h, w] or [N, K, C, h, w]; of volumes, with d before h."""
        ours, theirs = tensors_in(gradients), tensors_in(activations)
        if ours[0].dim() == theirs[0].dim():
            return self._feature_maps(name, gradients)
        samples, classes = ours[0].shape[:2]
        # A transform of the user's knows of no classes.
        maps = self._feature_maps(name, mapped(lambda t: t.flatten(0, 1), gradients))
        return maps.reshape(samples, classes, *maps.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_made", "_room")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()
        self.forget()

    def __repr__(self) -> str:
        layers = "to be found" if self._layers is None else ", ".join(self._layers)
        return f"{type(self).__name__}({type(self.model).__name__}, target layers: {layers})"
