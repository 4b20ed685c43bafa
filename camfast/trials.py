"""Many altered versions of the samples of a batch: run a few at a time, as memory allows, and scored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camfast.errors import is_out_of_memory
from camfast.progress import Progress
from camfast.targets import Classes, Scores

Run = Callable[[int, int], Tensor]
"""Gives the output of the model for the trials from a first one to before a last one."""

_TOGETHER = 32
"""How many trials run together unless told otherwise: more gain nothing."""
_BYTES = 2**28
"""What the altered tensors of those may take: one holds a large picture, or the channels of an early layer."""


def check_batch_size(batch_size: int | None) -> int | None:
    """How many trials run together, or None for as many as suit the memory.

    Raises:
        ValueError: not a whole number of at least 1.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size={batch_size!r}; expected a whole number of at least 1, or None to have it chosen")
    return batch_size


def together(batch_size: int | None, one: Tensor) -> int:
    """How many trials run together, of which each alters a tensor like this one."""
    return batch_size or max(1, min(_TOGETHER, _BYTES // max(one.nbytes, 1)))


def scores_of(
    run: Run, samples: Tensor, score: Callable[[Tensor, Tensor], Tensor], at_once: int, progress: Progress
) -> Tensor:
    """The scores of all trials, [T] or [T, K], float32 at least.

    Args:
        run: runs some of the trials.
        samples: [T] int64: which sample each trial is of.
        score: from an output, and which sample each row of it is of, to scores.
        at_once: how many run together; halved where memory runs out.
        progress: is told how far it is.
    """
    found: list[Tensor] = []
    begin = 0
    while begin < len(samples):
        end = min(begin + at_once, len(samples))
        try:
            scores = score(run(begin, end), samples[begin:end])
        except Exception as error:
            if not is_out_of_memory(error) or end - begin == 1:
                raise
            at_once = (end - begin + 1) // 2
            continue
        found.append(scores.detach().to(torch.promote_types(scores.dtype, torch.float32)))
        progress.advance(end - begin)
        begin = end
    return torch.cat(found)


def scoring(targets: Classes | Scores, classes: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """How rows of an output are scored, by the classes that the samples turned out to have, or by their callables."""
    if isinstance(targets, Scores):
        functions = targets.functions

        def by_callables(output: Tensor, samples: Tensor) -> Tensor:
            of_each = Scores([functions[sample] for sample in samples.tolist()])
            return of_each.score(output)[0]

        return by_callables
    assert classes is not None  # resolved from the output

    def by_classes(output: Tensor, samples: Tensor) -> Tensor:
        wanted = classes[samples]
        return output.gather(1, wanted.reshape(len(wanted), -1)).reshape(wanted.shape)

    return by_classes
