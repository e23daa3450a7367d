"""The adjusted projections of a parent's candidates; candidates that agree up to a block share the work up to there."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.copying import copy_module
from pruning.compensation.alignment import TokenAlignment
from pruning.compensation.calibration_pass import Adjusted, CalibrationPass
from pruning.compensation.method import Method
from pruning.compensation.sites import find_kept_layers, find_sites
from pruning.compensation.streams import Streams, record_streams
from pruning.inference.block_stand_in import HandedStates, Outcome, count_outcome_bytes, read_outcome
from pruning.inference.device import get_device
from pruning.inference.prefix_cache import GIB, Prefix, list_prefixes
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture

LATEST = 2  # candidates whose adjusted weights are kept, however large: one is judged piece by piece, then delivered
LATEST_SHARE = 4  # of the capacity a quarter may hold the weights of more: finalists are judged again on the test split


@dataclass(frozen=True)
class _Known:
    """What is known of a block of a candidate: its adjusted projections, and the states that leave it."""

    adjusted: tuple[Adjusted, ...]
    outcome: Outcome

    @property
    def nbytes(self) -> int:
        return count_outcome_bytes(self.outcome) + _count_bytes(self.adjusted)


class Compensator:
    """Adjusts candidates of one parent with one closed form and one set of calibration items.

    Example:
        >>> compensator = Compensator(parent, anatomy, calibration.inputs, METHODS["refit"])
        >>> adjusted = compensator.adjust(architecture)
        >>> install_adjusted(prune(parent, architecture), anatomy, architecture, adjusted)
    """

    def __init__(
        self, parent: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor], method: Method,
        library: BlockLibrary | None = None, capacity: int = GIB, bf16: bool = False,
    ) -> None:  # fmt: skip
        """What candidates are adjusted with.

        Args:
            inputs: keyword inputs of the model: all calibration items, which run as one batch.
            library: of the parent, where there is one already.
            capacity: bytes that may be kept of candidates, for others that begin alike.
            bf16: whether products of the passes are in bf16.
        """
        self._parent, self._anatomy, self._inputs, self._method = parent, anatomy, inputs, method
        self._library = library or BlockLibrary(parent, anatomy)
        self._capacity, self._nbytes, self._bf16 = capacity, 0, bf16
        self._known: OrderedDict[Prefix, _Known] = OrderedDict()
        self._latest: OrderedDict[Architecture, tuple[Adjusted, ...]] = OrderedDict()

    @torch.no_grad()
    def adjust(self, architecture: Architecture) -> tuple[Adjusted, ...]:
        """The adjusted projections of an architecture, in order of depth."""
        if architecture not in self._latest:
            keys = list_compensated_prefixes(self._anatomy, architecture)
            left = find_kept_layers(self._anatomy, architecture)
            known = self._find_known(keys)
            if len(known) < len(left):
                known += self._run(architecture, keys, left, known)
            self._latest[architecture] = tuple(each for block in known for each in block.adjusted)
            while len(self._latest) > LATEST and self._count_latest_bytes() > self._capacity // LATEST_SHARE:
                self._latest.popitem(last=False)
        return self._latest[architecture]

    def _count_latest_bytes(self) -> int:
        return sum(_count_bytes(adjusted) for adjusted in self._latest.values())

    def _run(
        self, architecture: Architecture, keys: list[Prefix], left: list[int], known: list[_Known]
    ) -> list[_Known]:
        """Adjust the blocks after those that are known; what states leave them is kept for others."""
        candidate = prune(self._parent, architecture, anatomy=self._anatomy, library=self._library)
        blocks: nn.ModuleList = candidate.get_submodule(self._anatomy.stack)
        for position, each in enumerate(known):
            blocks[position] = HandedStates.of(blocks[position], each.outcome)
        seen: dict[int, Outcome] = {}
        ends = [
            blocks[position].register_forward_hook(_keep_states(seen, position))
            for position in range(len(known), len(left))
        ]
        calibration = CalibrationPass(
            candidate, dict(zip(left, blocks, strict=True)), self._streams, self._method,
            TokenAlignment.of(candidate, self._inputs),
        )  # fmt: skip
        sites = find_sites(self._anatomy, architecture)
        with self._lower_precision():
            adjusted = calibration.run(self._anatomy, sites, self._inputs)
        for end in ends:
            end.remove()
        added = []
        for position, outcome in sorted(seen.items(), key=lambda pair: pair[0]):
            own = tuple(each for each in adjusted if each.layer == left[position])
            added.append(_Known(own, outcome))
            if position < len(keys):
                self._keep(keys[position], added[-1])
        return added

    @cached_property
    def _streams(self) -> Streams:
        with self._lower_precision():
            return record_streams(self._parent, self._anatomy, self._inputs)

    def _lower_precision(self) -> torch.autocast:
        """Of parent and candidates alike: where nothing was dropped yet, the two streams are equal."""
        return torch.autocast(get_device(self._parent).type, dtype=torch.bfloat16, enabled=self._bf16)

    def _find_known(self, keys: list[Prefix]) -> list[_Known]:
        blocks: list[_Known] = []
        for key in keys:
            if key not in self._known:
                break
            self._known.move_to_end(key)
            blocks.append(self._known[key])
        return blocks

    def _keep(self, key: Prefix, known: _Known) -> None:
        if key in self._known:
            return
        self._known[key] = known
        self._nbytes += known.nbytes
        while self._nbytes > self._capacity and self._known:
            self._nbytes -= self._known.popitem(last=False)[1].nbytes


def list_compensated_prefixes(anatomy: Anatomy, architecture: Architecture) -> list[Prefix]:
    """As `list_prefixes`, for adjusted candidates: what leaves a block also depends on who reads it next."""
    if not anatomy.resumes:
        return []
    ends = {site.layer: (site.target, site.closing) for site in find_sites(anatomy, architecture)}  # of the last part
    left = find_kept_layers(anatomy, architecture)
    merged = anatomy.merge_blocks(architecture)
    return [(*prefix, f"to {ends.get(layer)}") for prefix, layer in zip(list_prefixes(merged), left, strict=False)]


def install_adjusted(
    candidate: Any, anatomy: Anatomy, architecture: Architecture, adjusted: tuple[Adjusted, ...]
) -> None:
    """Give a candidate its adjusted projections, in place.

    Args:
        candidate: from `prune`.
        adjusted: from `Compensator.adjust` for the same architecture.
    """
    left = find_kept_layers(anatomy, architecture)
    blocks: nn.ModuleList = candidate.get_submodule(anatomy.stack)
    for each in adjusted:
        blocks[left.index(each.layer)].set_submodule(each.path, copy_module(each.module, share_tensors=True))


def _count_bytes(adjusted: tuple[Adjusted, ...]) -> int:
    return sum(parameter.nbytes for each in adjusted for parameter in each.module.parameters())


def _keep_states(seen: dict[int, Outcome], position: int) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen[position] = read_outcome(output)

    return hook
