"""How far a candidate is from its parent."""

from nas.quality.evaluator import Evaluator, evaluator_for
from nas.quality.quality import Quality

__all__ = ["Evaluator", "Quality", "evaluator_for"]
