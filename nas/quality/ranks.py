"""Rank correlation: whether two models order things alike."""

import numpy as np
from torch import Tensor

_MIN_VALUES = 3  # values of which an order says something


def compute_rank_correlation(own: Tensor, parent: Tensor) -> float:
    """Spearman's coefficient of two rows of numbers.

    Where it is not defined: 1.0 if the parent orders nothing (fewer than three values, or all alike), as nothing can
    be out of order; 0.0 if only `own` orders nothing, or has values that are no numbers.
    """
    if len(parent) < _MIN_VALUES or bool((parent == parent[0]).all()):
        return 1.0
    if bool((own == own[0]).all()) or not bool(own.isfinite().all()):
        return 0.0
    from scipy.stats import rankdata

    ranks = [rankdata(values.cpu().numpy()) for values in (own, parent)]
    return float(np.corrcoef(*ranks)[0, 1])
