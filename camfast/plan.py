"""What an engine decided about a model, and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """How a model is explained; print it.

    >>> print(cam.plan)  # doctest: +SKIP
    forward   the model itself, without a graph
    gradient  closed form at layer4: mean → linear; 0.0e+00 away from autograd
    memory    nothing beside the model
    """

    forward: str
    """What runs up to the target layer."""
    gradient: str
    """Where the gradient at the layer comes from."""
    memory: int = 0
    """Bytes of weights that are held beside those of the model."""
    notes: tuple[str, ...] = field(default=())
    """What was asked for and could not be done, and why: a line each."""
    reach: float | None = None
    """How far images may be from zero; with others there is a new plan. None for any."""

    def __str__(self) -> str:
        own = f"{self.memory / 1e6:.1f} MB of weights beside the model's" if self.memory else "nothing beside the model"
        lines = [f"forward   {self.forward}", f"gradient  {self.gradient}", f"memory    {own}"]
        return "\n".join([*lines, *(f"note      {note}" for note in self.notes)])
