"""Fewer heads: whole groups of heads that share keys and values are cut out, with their queries.

They go in the order that is kept on the output projection (`pruning.analysis.channel_orders`); where there is none,
those with the smallest weights go first.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call
from pruning.kinds.cut_check import computes_without_inputs
from pruning.kinds.quantised_part import QuantisedPart
from pruning.kinds.surgery import Surgery
from pruning.surgery.channel_order import ChannelOrder, Cut, get_channel_order
from pruning.surgery.linear import get_weight_matrix, keep_inputs, keep_outputs
from search_spaces.kinds.attention_heads import KIND, count_groups
from search_spaces.level import Level
from search_spaces.unit import Choice

OFFERED = (750, 500, 250)  # thousandths of the groups that a search may keep
_SIZES = ("head_dim", "head_size", "attention_head_size")  # what attentions call the size of a head
_SEPARATE, _FUSED = 3, 1  # matrices that write queries, keys and values
_CHECKED = "only what a block can have is chosen for it"


@dataclass(frozen=True)
class Heads:
    """How an attention is made of heads. Paths are relative to the block.

    Attributes:
        groups: of heads with keys and values of their own.
        output: the matrix that reads what the heads give, `width` numbers of all of them.
        sections: by matrix that writes queries, keys or values, how many outputs lie together in the order of groups:
            all of a matrix, or first the queries, then the keys and the values of all.
        holder: the module that cuts the outputs of one matrix apart by their number; None where none does.
    """

    groups: int
    output: str
    width: int
    sections: dict[str, tuple[int, ...]]
    holder: str | None

    def list_rows(self, path: str, kept: Tensor) -> Tensor:
        """The outputs of a matrix that are left with these groups."""
        begin, rows = 0, []
        for length in self.sections[path]:
            rows.append(begin + _list_members(kept, length // self.groups))
            begin += length
        return torch.cat(rows)

    def list_inputs(self, kept: Tensor) -> Tensor:
        """The inputs of the output projection that are left with these groups."""
        return _list_members(kept, self.width // self.groups)


class _FewerHeads(Surgery):
    @torch.no_grad()
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Those that leave fewer groups, where the block computes then what it does without what the others give."""
        heads = find_heads(call.module, anatomy)
        if heads is None:
            return ()
        counts = {count_groups(heads.groups, value): value for value in reversed(OFFERED)}
        levels = tuple(Level.on(KIND.axis, value) for count, value in counts.items() if count < heads.groups)

        def agrees(level: Level) -> bool:
            modules, kept = self.build_modules(call.module, anatomy, level, ()), _find_kept(call.module, heads, level)
            return computes_without_inputs(call, modules, heads.output, heads.list_inputs(kept))

        return levels if all(map(agrees, levels)) else ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The matrices of an attention without the groups that are needed least."""
        heads = find_heads(block, anatomy)
        assert heads is not None, _CHECKED
        kept = _find_kept(block, heads, level)
        inputs = heads.list_inputs(kept)
        modules = dict[str, nn.Module]()
        if heads.holder is not None:
            modules[heads.holder] = _tell_width(block, heads, len(inputs))
        for path in heads.sections:
            modules[path] = keep_outputs(block.get_submodule(path), heads.list_rows(path, kept))
        return modules | {heads.output: keep_inputs(block.get_submodule(heads.output), inputs)}

    def find_cut(self, block: nn.Module, anatomy: BlockAnatomy) -> Cut | None:
        """What the heads give, as inputs of the output projection."""
        heads = find_heads(block, anatomy)
        return None if heads is None else Cut(heads.output, heads.width // heads.groups)

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """All weights of the groups that are gone."""
        heads = find_heads(block, anatomy)
        assert heads is not None, _CHECKED
        written = sum(p.numel() for path in heads.sections for p in block.get_submodule(path).parameters())
        each = (written + get_weight_matrix(block.get_submodule(heads.output)).numel()) // heads.groups
        return each * (heads.groups - _count_kept(heads, level))


def find_heads(block: nn.Module, anatomy: BlockAnatomy) -> Heads | None:
    """How the attention of a block is made of heads; None where sizes do not say so, or all share their keys.

    Queries, keys and values are written by a matrix each, or by one: group by group, or where the module that holds it
    knows the number of queries, first all queries.
    """
    part = anatomy.parts.get(KIND.slot)
    paths = () if part is None else QuantisedPart(KIND.slot).find_matrices(block, anatomy)
    if part is None or part.projection not in paths:
        return None
    rows = {path: get_weight_matrix(block.get_submodule(path)).shape[0] for path in paths if path != part.projection}
    width = get_weight_matrix(block.get_submodule(part.projection)).shape[1]
    fused = len(rows) == _FUSED
    keys = (sum(rows.values()) - width) // 2
    size, holder = _find_size(block, part.members)
    expected = [width + 2 * keys] if fused else sorted((width, keys, keys))
    if len(rows) not in (_SEPARATE, _FUSED) or sorted(rows.values()) != expected or not size:
        return None
    if keys < 2 * size or keys % size or width % keys:
        return None
    splits = fused and width in _list_counts(block.get_submodule(holder)).values()
    sections: dict[str, tuple[int, ...]] = {
        path: (width, keys, keys) if splits else (count,) for path, count in rows.items()
    }
    return Heads(keys // size, part.projection, width, sections, holder if splits else None)


def _find_size(block: nn.Module, members: tuple[str, ...]) -> tuple[int, str]:
    """The size of a head, and the module that says it; 0 where none does."""
    for member in members:
        for path, module in block.get_submodule(member).named_modules(prefix=member):
            counts = _list_counts(module)
            if found := next((counts[name] for name in _SIZES if name in counts), 0):
                return found, path
    return 0, ""


def _list_counts(module: nn.Module) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("_")}


def _tell_width(block: nn.Module, heads: Heads, width: int) -> nn.Module:
    """A copy of the module that cuts the outputs of a matrix apart, which knows how many queries are left."""
    assert heads.holder is not None, "somebody cuts them apart"
    holder = copy_module(block.get_submodule(heads.holder), share_tensors=True)
    for name, value in _list_counts(holder).items():
        if value == heads.width:
            setattr(holder, name, width)
    return holder


def _find_kept(block: nn.Module, heads: Heads, level: Level) -> Tensor:
    """Indices, rising, of the groups that stay."""
    order = get_channel_order(block.get_submodule(heads.output)) or _order_by_weights(block, heads)
    return order.list_kept(_count_kept(heads, level))


def _order_by_weights(block: nn.Module, heads: Heads) -> ChannelOrder:
    """The groups with the largest weights first; of equal ones those that come first.

    What counts of a group is the norm of the rows that write it, times that of its columns in the output projection.
    """
    norm = partial(torch.linalg.vector_norm, dtype=torch.float32)

    def compute_size(group: int) -> Tensor:
        kept = torch.tensor([group])
        rows = [get_weight_matrix(block.get_submodule(path))[heads.list_rows(path, kept)] for path in heads.sections]
        columns = get_weight_matrix(block.get_submodule(heads.output))[:, heads.list_inputs(kept)]
        size: Tensor = norm(torch.cat([norm(each).reshape(1) for each in rows])) * norm(columns)
        return size

    sizes = torch.stack([compute_size(group) for group in range(heads.groups)])
    return ChannelOrder(sizes.sort(descending=True, stable=True).indices.cpu(), "weights")


def _list_members(groups: Tensor, size: int) -> Tensor:
    """The indices of what groups of so many neighbours hold."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


def _count_kept(heads: Heads, level: Level) -> int:
    return count_groups(heads.groups, dict(level.axes)[KIND.axis])


SURGERY = _FewerHeads()
