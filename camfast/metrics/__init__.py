"""How good an explanation is: metrics of heatmaps, whatever made them.

>>> camfast.metrics.deletion(model, x, heatmaps)              # doctest: +SKIP
>>> camfast.metrics.evaluate(camfast.GradCAM(model), x)       # doctest: +SKIP

The model runs as in evaluation mode, without a graph, and is left exactly as it was.

deletion      deletion, insertion: the hottest pixels go or come
confidence    average_drop, increase_in_confidence: only what is hot is left
road          road: the hottest and the coldest pixels go, filled from their neighbours
adcc          complexity, coherency, and with a third one as one number: adcc, arcc
pointing      pointing_game: boxes or masks of the object are known
sensitivity   sensitivity_n: heat against the score that is lost
sanity        sanity_check: the model's weights are randomized
evaluate      evaluate: several of these as a table
"""

from camfast.metrics.adcc import adcc, arcc, coherency, complexity
from camfast.metrics.confidence import average_drop, increase_in_confidence
from camfast.metrics.deletion import deletion, insertion
from camfast.metrics.evaluate import DEFAULT_METRICS, METRICS, Evaluation, evaluate
from camfast.metrics.pointing import pointing_game
from camfast.metrics.result import Scores
from camfast.metrics.road import road
from camfast.metrics.sanity import SanityCheck, sanity_check
from camfast.metrics.sensitivity import sensitivity_n

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Evaluation",
    "SanityCheck",
    "Scores",
    "adcc",
    "arcc",
    "average_drop",
    "coherency",
    "complexity",
    "deletion",
    "evaluate",
    "increase_in_confidence",
    "insertion",
    "pointing_game",
    "road",
    "sanity_check",
    "sensitivity_n",
]
