"""Loading weights as narrow as they are stored, into a model that is otherwise built in float32."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from transformers import PreTrainedModel

from pruning.checkpoint.weight_files import Header, get_dtype, read_stored_dtypes
from pruning.inference.widening import NARROW


def plan_dtypes(headers: Mapping[str, Header]) -> dict[str, torch.dtype]:
    """The dtype of each tensor by a pattern of its name, the last for all others; empty where most are not narrow.

    A tensor that is stored otherwise than most is float32, which holds its values.

    Example:
        >>> plan_dtypes({"a.weight": Header("BF16", (4, 4)), "b": Header("F32", (1,))})
        {'b': torch.float32, '*': torch.bfloat16}
    """
    narrow = next(iter(read_stored_dtypes(headers)), torch.float32)
    if narrow not in NARROW:
        return {}
    others = {name for name, header in headers.items() if get_dtype(header) not in (None, narrow)}
    return {re.escape(name): torch.float32 for name in sorted(others)} | {"*": narrow}


def holds_plan(model: Any, plan: Mapping[str, torch.dtype]) -> bool:
    """Whether no tensor of a model became narrower than it was stored; not where the library renames such tensors."""
    dtypes = {re.escape(name): tensor.dtype for name, tensor in model.state_dict().items()}
    return all(dtypes.get(name) == dtype for name, dtype in plan.items() if name != "*")


@contextmanager
def load_as_planned(plan: Mapping[str, torch.dtype]) -> Iterator[None]:
    """Meanwhile, the library loads weights as planned.

    It is asked for float32, in which a model then makes what is not in files (frequencies, scales): loaded as a whole
    in half precision, it would round these too. Weights that need no conversion are not copied: they are the files,
    mapped into memory.
    """
    if not plan:
        yield
        return
    with mock.patch.object(PreTrainedModel, "_get_dtype_plan", return_value=dict(plan)):
        yield
