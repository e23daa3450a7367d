"""Narrower MLPs: neurons between the matrices are cut out.

They go in the order that is kept on the matrix that reads them (`pruning.analysis.channel_orders`); where there is
none, those with the smallest weights go first.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.probe import Call
from pruning.kinds.cut_check import computes_without_inputs
from pruning.kinds.surgery import Surgery
from pruning.surgery.channel_order import ChannelOrder, Cut, get_channel_order
from pruning.surgery.linear import get_weight_matrix, is_linear, keep_inputs, keep_outputs
from search_spaces.kinds.mlp_width import KIND, count_neurons
from search_spaces.level import Level
from search_spaces.unit import Choice

OFFERED = (750, 500, 250)  # thousandths of the neurons that a search may keep
_CHECKED = "only what a block can have is chosen for it"


@dataclass(frozen=True)
class Matrices:
    """Paths within the block: `up` write neurons (one of them gate and up together, or one each), `down` reads them."""

    up: tuple[str, ...]
    down: str
    neurons: int


class _NarrowedMlp(Surgery):
    @torch.no_grad()
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Those that leave fewer neurons, where the block computes then what it does with zeros in their place."""
        matrices = find_matrices(call.module, anatomy)
        if matrices is None:
            return ()
        counts = {count_neurons(matrices.neurons, value): value for value in reversed(OFFERED)}
        levels = tuple(Level.on(KIND.axis, value) for count, value in counts.items() if count < matrices.neurons)
        return levels if levels and _agrees(call, anatomy, matrices, levels[0]) else ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The matrices of an MLP without the neurons that are needed least."""
        matrices = find_matrices(block, anatomy)
        assert matrices is not None, _CHECKED
        kept = _find_kept(block, matrices, level)
        modules = {}
        for path in matrices.up:
            matrix = block.get_submodule(path)
            halves = get_weight_matrix(matrix).shape[0] // matrices.neurons
            modules[path] = keep_outputs(matrix, torch.cat([kept + half * matrices.neurons for half in range(halves)]))
        return modules | {matrices.down: keep_inputs(block.get_submodule(matrices.down), kept)}

    def find_cut(self, block: nn.Module, anatomy: BlockAnatomy) -> Cut | None:
        """The neurons, as inputs of the matrix that reads them."""
        matrices = find_matrices(block, anatomy)
        return None if matrices is None else Cut(matrices.down)

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """All weights of the neurons that are gone."""
        matrices = find_matrices(block, anatomy)
        assert matrices is not None, _CHECKED
        up = sum(parameter.numel() for path in matrices.up for parameter in block.get_submodule(path).parameters())
        each = (up + get_weight_matrix(block.get_submodule(matrices.down)).numel()) // matrices.neurons
        return each * (matrices.neurons - _count_kept(matrices, level))


def find_matrices(block: nn.Module, anatomy: BlockAnatomy) -> Matrices | None:
    """The matrices of an MLP that has nothing else; None where they do not say by their sizes which is which."""
    owners = {
        f"{member}.{path}".rstrip("."): module
        for member in anatomy.mlp.members
        for path, module in block.get_submodule(member).named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    if not all(is_linear(module) for module in owners.values()):
        return None
    sizes = {path: tuple(get_weight_matrix(module).shape) for path, module in owners.items()}  # (out, in)
    hidden = anatomy.hidden_size
    downs = [path for path, (outputs, inputs) in sizes.items() if outputs == hidden != inputs]
    if len(downs) != 1:
        return None
    neurons = sizes[downs[0]][1]
    ups = tuple(path for path in sizes if path not in downs)
    shapes = sorted(sizes[path] for path in ups)
    known = ([(neurons, hidden)], [(neurons, hidden)] * 2, [(2 * neurons, hidden)])
    return Matrices(ups, downs[0], neurons) if shapes in known else None


def _find_kept(block: nn.Module, matrices: Matrices, level: Level) -> Tensor:
    """Indices, rising, of the neurons that stay."""
    order = get_channel_order(block.get_submodule(matrices.down)) or _order_by_weights(block, matrices)
    return order.list_kept(_count_kept(matrices, level))


def _order_by_weights(block: nn.Module, matrices: Matrices) -> ChannelOrder:
    """The neurons with the largest weights first; of equal ones those that come first.

    What counts of a neuron is the norm of its rows in the matrices that write it, times that of its column in the one
    that reads it.
    """
    norm = partial(torch.linalg.vector_norm, dtype=torch.float32)
    rows = torch.cat([norm(get_weight_matrix(block.get_submodule(path)), dim=1) for path in matrices.up])
    column = norm(get_weight_matrix(block.get_submodule(matrices.down)), dim=0)
    sizes: Tensor = norm(rows.view(-1, matrices.neurons), dim=0) * column
    return ChannelOrder(sizes.sort(descending=True, stable=True).indices, "weights")


def _count_kept(matrices: Matrices, level: Level) -> int:
    return count_neurons(matrices.neurons, dict(level.axes)[KIND.axis])


def _agrees(call: Call, anatomy: BlockAnatomy, matrices: Matrices, level: Level) -> bool:
    """Whether a block with a narrower MLP computes what it does where nothing reads the neurons that are gone."""
    modules, kept = SURGERY.build_modules(call.module, anatomy, level, ()), _find_kept(call.module, matrices, level)
    return computes_without_inputs(call, modules, matrices.down, kept)


SURGERY = _NarrowedMlp()
