"""Widths and heads by one threshold over all layers."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.search.channels import Channels
from nas.search.problem import Problem
from pruning.analysis.criteria import Fluctuation
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Flap:
    """FLAP (An et al., Fluctuation-based Adaptive Structured Pruning for LLMs, AAAI 2024).

    Inputs count by their variance times the squared norm of their columns (WIFV). Scores are standardised within each
    layer, those of a head averaged, and what lies below one threshold goes, whatever its layer. Published is a
    threshold for a share of the parameters; here it is the lowest that meets the latency. What was lost of the mean is
    made up for by a bias (`--compensate bias`), or by whatever compensation is asked for.
    """

    name: str = "flap"
    criterion: str = Fluctuation.name

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """With the lowest threshold that meets the budget; None where the narrowest of everything does not."""
        scores = [_standardise(channels) for channels in problem.channels]
        thresholds = np.unique(np.concatenate(scores)) if scores else np.zeros(0)
        first = bisect_left(thresholds, True, key=lambda each: problem.is_feasible(_cut(problem, scores, each)))
        return None if first == len(thresholds) else _cut(problem, scores, thresholds[first])


def _standardise(channels: Channels) -> np.ndarray:
    """Of every group, the mean of its inputs' scores in standard deviations from the layer's mean."""
    scores = np.array(channels.scores)
    spread = scores.std(ddof=1) or 1.0
    means: np.ndarray = ((scores - scores.mean()) / spread).reshape(-1, channels.size).mean(1)
    return means


def _cut(problem: Problem, scores: Sequence[np.ndarray], threshold: float) -> Architecture:
    """What is left with the groups above a threshold; of every part at least one."""
    kept = (channels.keep(int((own > threshold).sum())) for channels, own in zip(problem.channels, scores, strict=True))
    return problem.space.decode(choice for choice in kept if choice is not None)
