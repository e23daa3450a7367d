"""Narrower MLPs: of the neurons between the matrices a share stays, as in `mlp.3:width=0.5`."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.share import ShareKind
from search_spaces.level import THOUSAND

MULTIPLE = 8  # neurons are kept in multiples of it, as registers and tiles have them


def count_neurons(neurons: int, value: int) -> int:
    """How many neurons of an MLP a width of `value` thousandths keeps: a multiple of 8, from 8 to all of them."""
    nearest = MULTIPLE * round(neurons * value / THOUSAND / MULTIPLE)
    return min(neurons, max(MULTIPLE, nearest))


KIND = ShareKind("mlp-width", Kind.MLP, axis="width", default=False)
