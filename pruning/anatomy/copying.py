"""Copies of models, equal to those of `copy.deepcopy` and made five times as fast.

Every module holds a dozen dictionaries for hooks, nearly all of them empty, which `deepcopy` takes apart and builds
again one by one. Candidates are copies of their parent, and reading an anatomy copies every block several times.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

_Model = TypeVar("_Model", bound=nn.Module)


def copy_module(module: _Model, share_tensors: bool = False, instead: Mapping[int, Tensor] | None = None) -> _Model:
    """A copy of a module, of any size.

    Args:
        share_tensors: let the copy's parameters and buffers be the original's, so that it costs no memory.
        instead: what the copy has in the places of some of the original's tensors, by their identity.
    """
    parts = [part for part in module.modules() if _is_copied_by_attribute(type(part))]
    tensors = (*module.parameters(), *module.buffers()) if share_tensors else ()
    copies: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    copies |= instead or {}
    copies |= {id(part): type(part).__new__(type(part)) for part in parts}
    copies |= {id(value): type(value)() for value in _find_empty_containers(parts)}
    for part in parts:
        state: dict[str, Any] = part.__getstate__()  # type: ignore[no-untyped-call]
        vars(copies[id(part)]).update((name, copy.deepcopy(value, copies)) for name, value in state.items())
    return copy.deepcopy(module, copies)


def _find_empty_containers(parts: Iterable[nn.Module]) -> Iterator[Any]:
    for part in parts:
        yield from (value for value in vars(part).values() if type(value) in (dict, OrderedDict, set) and not value)


def _is_copied_by_attribute(kind: type) -> bool:
    """Whether `deepcopy` would copy the attributes of an instance and nothing else; if not, it copies the instance."""
    own: Any = kind
    return (
        not hasattr(own, "__deepcopy__")
        and own.__reduce_ex__ is object.__reduce_ex__
        and own.__getstate__ is nn.Module.__getstate__
        and own.__setstate__ is nn.Module.__setstate__
    )
