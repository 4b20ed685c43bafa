"""Runs a model on many changed copies of its images, in batches that fit into memory, and scores what comes out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from camfast.allocator import HeapRoom
from camfast.errors import is_out_of_memory
from camfast.inputs import Batch, Inputs, check_inputs, normal_tensors
from camfast.outputs import Chosen, PerSample, Selector
from camfast.passes import prepared
from camfast.targets import Classes, Target, check_targets
from camfast.targets import Scores as Functions
from camfast.wrappers import require_module

Score: TypeAlias = "Literal['softmax', 'logit'] | Callable[[Tensor], Tensor]"
Make = Callable[[Tensor, Tensor], Tensor]
"""Makes changed images [b, C, H, W] of the numbers of b samples and b variants, both int64 [b]."""

# On the CPU, what a batch needs should stay in the caches and in the heap; a CUDA device wants to be filled.
_PIXELS = {"cpu": 8 * 224**2, "cuda": 128 * 224**2}


class Scorer:
    """What a model says of images and of changed copies of them: the score of each sample's target.

    Args:
        model, x, targets, score, output, batch_size: as in :func:`camfast.metrics.deletion`.
        known: what the model returns for the images, where that is known; otherwise it runs.

    Raises:
        TypeError, ValueError: what is wrong with one of them.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        targets: Target = None,
        *,
        score: Score = "softmax",
        output: Selector | None = None,
        batch_size: int | None = None,
        known: Any = None,
    ) -> None:
        self.model = require_module(model)
        self.batch = normal_tensors(check_inputs(x))
        if len(self.batch) == 0:
            raise ValueError("x has no images; expected at least 1")
        self._wanted = check_targets(targets, len(self.batch))
        if isinstance(self._wanted, Classes) and self._wanted.several:
            raise ValueError("targets has several classes a sample; metrics are of one, so call them once for each")
        self._convert = _check_score(score)
        self._output = Chosen(output, "metric")
        self._size = _check_batch_size(batch_size, self.images)
        self._room = HeapRoom.shared() if self.images.device.type == "cpu" else None
        self.original = self._score_originals(known)
        """[N]: of the images as they are."""

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def images(self) -> Tensor:
        """[N, C, H, W]."""
        return self.batch.images

    @property
    def targets(self) -> Any:
        """What an explainer has to explain: classes as a LongTensor [N], or N callables."""
        return self._wanted.indices if isinstance(self._wanted, Classes) else list(self._wanted.functions)

    def with_images(self, images: Tensor) -> Batch:
        """The inputs of the model, with other images in the place of theirs."""
        values = list(self.batch.values)
        values[self.batch.image] = images
        return replace(self.batch, values=tuple(values))

    def variants(self, count: int, make: Make) -> Tensor:
        """The scores [N, count] of so many changed copies of every image."""

        def scored(begin: int, end: int) -> Tensor:
            jobs = torch.arange(begin, end, device=self.images.device)
            samples = jobs // count
            images = make(samples, jobs % count).to(self.images.dtype)
            return self._of(self._run(self._inputs(images, samples)), samples)

        return self._in_batches(len(self) * count, scored).reshape(len(self), count)

    def _score_originals(self, known: Any) -> Tensor:
        if known is None:
            outputs = self._in_batches(
                len(self), lambda begin, end: self._run(self.batch.part(begin, end).map(torch.clone))
            )
        else:
            outputs = self._selected(known)
        if isinstance(self._wanted, Classes):
            self._wanted = Classes(self._wanted.resolve(outputs), checked=True)
        return self._of(outputs, torch.arange(len(self), device=self.images.device))

    def _inputs(self, images: Tensor, samples: Tensor) -> Batch:
        """Of changed images, with what else the model takes of their samples."""
        if self.batch.alone:
            return self.with_images(images)
        chosen = self.batch.per_sample(lambda t: t[samples.to(t.device)])
        values = list(chosen.values)
        values[chosen.image] = images
        return replace(chosen, values=tuple(values))

    def _run(self, batch: Batch) -> Tensor:
        return self._selected(batch.call(self.model))

    def _selected(self, returned: Any) -> Tensor:
        output = self._output.select(returned).detach()
        return output if isinstance(output, PerSample) or output.dtype == torch.float64 else output.float()

    def _of(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """The scores [b] of outputs [b, ...] that belong to samples."""
        if not isinstance(self._wanted, Classes):
            functions = Functions([self._wanted.functions[i] for i in samples.tolist()])
            return functions.score(outputs)[0].detach()
        converted = self._convert(outputs)
        indices = self._wanted.indices
        assert indices is not None  # resolved by the images as they are
        return converted.gather(1, indices.to(outputs.device)[samples.to(outputs.device), None])[:, 0]

    def _in_batches(self, total: int, run: Callable[[int, int], Tensor]) -> Tensor:
        """What ``run`` makes of 0 to ``total``, a batch at a time; half of it from where memory ran out."""
        parts = []
        begin = 0
        with prepared(self.model), torch.no_grad():
            while begin < total:
                end = min(begin + self._size, total)
                part = _unless_out_of_memory(run, begin, end)
                if part is None:
                    self._halve(end - begin)
                    continue
                parts.append(part)
                begin = end
        return torch.cat(parts)

    def _halve(self, size: int) -> None:
        self._size = (size + 1) // 2
        warnings.warn(
            f"out of memory with a batch of {size}: scoring {self._size} images at a time", RuntimeWarning, stacklevel=5
        )
        if self.images.is_cuda:
            torch.cuda.empty_cache()


def _unless_out_of_memory(run: Callable[[int, int], Tensor], begin: int, end: int) -> Tensor | None:
    """None where memory ran out, with nothing left that holds on to what was allocated."""
    try:
        return run(begin, end)
    except Exception as error:
        if not is_out_of_memory(error) or end - begin == 1:
            raise
    return None


def _check_score(score: Any) -> Callable[[Tensor], Tensor]:
    if score == "softmax":
        return lambda output: output.softmax(1)
    if score == "logit":
        return lambda output: output
    if not callable(score):
        raise ValueError(f"score={score!r}; expected 'softmax', 'logit', or a callable on the model's output")

    def convert(output: Tensor) -> Tensor:
        converted = score(output)
        if not isinstance(converted, Tensor) or converted.shape != output.shape:
            found = list(converted.shape) if isinstance(converted, Tensor) else type(converted).__name__
            raise ValueError(f"score made {found} of the model's output {list(output.shape)}; expected that shape")
        return converted

    return convert


def _check_batch_size(batch_size: Any, images: Tensor) -> int:
    if batch_size is None:
        pixels = _PIXELS.get(images.device.type, _PIXELS["cuda"])
        return min(max(pixels // math.prod(images.shape[2:]), 1), 1024)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}; expected a whole number of at least 1, or None")
    return batch_size
