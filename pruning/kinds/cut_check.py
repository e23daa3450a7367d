"""Whether a block from which inputs of a projection were cut computes what it does where nothing reads them."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call, run_or_refuse
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.replacement import replace_modules


def computes_without_inputs(call: Call, modules: Mapping[str, nn.Module], path: str, kept: Tensor) -> bool:
    """Whether a block with these modules computes what the whole one does with zeros in the columns of a projection.

    Args:
        call: of the whole block.
        modules: that stand in it, by path.
        path: of the projection.
        kept: its inputs that are left.
    """
    narrowed, masked = (copy_module(call.module, share_tensors=True) for _ in range(2))
    replace_modules(narrowed, modules)
    projection = copy.deepcopy(masked.get_submodule(path))
    get_weight_matrix(projection).zero_()[:, kept] = get_weight_matrix(masked.get_submodule(path))[:, kept]
    replace_modules(masked, {path: projection})
    expected = get_first_output(run_or_refuse(masked, *call.args, **call.kwargs))
    return describe_difference(lambda: narrowed(*call.args, **call.kwargs), expected) is None
