"""Whether a model can be judged as a pruned copy of another: it reads the same inputs and gives the same outputs."""

from typing import Any

import torch

from nas.data.finite_outputs import check_numbers
from nas.quality.evaluator import Evaluator
from pruning.anatomy.language_model import language_config
from pruning.reduction.inspection import token_hooks
from search_spaces.errors import ModelError

_EMBEDDING = "embedding_fidelity"  # compares states of the trunk, whatever heads there are


@torch.inference_mode()
def check_comparable(candidate: Any, parent: Any, evaluator: Evaluator, split: str) -> None:
    """Find out on one item of the split that is to be judged.

    Raises:
        ModelError: the candidate reads or gives something else than the parent, or no numbers.
    """
    own, its = candidate.main_input_name, parent.main_input_name
    if own != its:
        raise _incomparable(f"takes {own}", f"takes {its}", candidate, parent)
    own, its = (getattr(language_config(model), "vocab_size", None) for model in (candidate, parent))
    if own != its:
        raise _incomparable(f"has {own} tokens in its vocabulary", f"has {its}", candidate, parent)
    if token_hooks(candidate) is not None:  # what it gives has fewer tokens
        return
    item = next(evaluator.dataset.split(split).batches(1))
    try:
        output = candidate(**item)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _incomparable(f"does not read an item of the data ({reason})", "does", candidate, parent) from error
    check_numbers(candidate, output)
    gives, wanted = _logits(output), _logits(parent(**item))
    if gives != wanted and evaluator.metric != _EMBEDDING:
        raise _incomparable(f"gives {gives or 'no logits'} for an item", f"gives {wanted}", candidate, parent)


def _logits(output: Any) -> tuple[int, ...]:
    """Their shape; empty where there are none."""
    logits = getattr(output, "logits", None)
    return tuple(logits.shape) if isinstance(logits, torch.Tensor) else ()


def _incomparable(does: str, other: str, candidate: Any, parent: Any) -> ModelError:
    return ModelError(
        f"the model ({type(candidate).__name__}) {does} and its parent ({type(parent).__name__}) {other}; compare it "
        "with the model that it was made from: --parent PATH_OR_HUB_ID, and --data where that has no data of its own"
    )
