"""Whether a model can be judged as a pruned copy of another: it reads the same inputs and gives the same outputs."""

from typing import Any

import torch

from nas.data.finite_outputs import check_numbers
from nas.quality.evaluator import Evaluator
from pruning.reduction.inspection import find_token_hooks
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
        raise _build_error(f"takes {own}", f"takes {its}", candidate, parent)
    own, its = (_count_vocabulary(model) for model in (candidate, parent))
    if own != its:
        raise _build_error(f"has {own} tokens in its vocabulary", f"has {its}", candidate, parent)
    if find_token_hooks(candidate) is not None:  # what it gives has fewer tokens
        return
    item = next(evaluator.dataset.get_split(split).iterate_batches(1))
    try:
        output = candidate(**item)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _build_error(f"does not read an item of the data ({reason})", "does", candidate, parent) from error
    check_numbers(candidate, output)
    gives, wanted = _read_shape(output), _read_shape(parent(**item))
    if gives != wanted and evaluator.metric != _EMBEDDING:
        raise _build_error(f"gives {gives or 'no logits'} for an item", f"gives {wanted}", candidate, parent)


def _count_vocabulary(model: Any) -> int | None:
    """The tokens that a model knows; of one with two stacks, those that it writes."""
    return getattr(model.config.get_text_config(decoder=True), "vocab_size", None)


def _read_shape(output: Any) -> tuple[int, ...]:
    """Their shape; empty where there are none."""
    logits = getattr(output, "logits", None)
    return tuple(logits.shape) if isinstance(logits, torch.Tensor) else ()


def _build_error(does: str, other: str, candidate: Any, parent: Any) -> ModelError:
    return ModelError(
        f"the model ({type(candidate).__name__}) {does} and its parent ({type(parent).__name__}) {other}; compare it "
        "with the model that it was made from: --parent PATH_OR_HUB_ID, and --data where that has no data of its own"
    )
