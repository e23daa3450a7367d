"""Prefix caching: candidates that agree up to a block share the hidden states that leave it.

A pruned copy of the parent is made resumable in place: each kept block is wrapped, the states that leave it are kept
in a store under (the inputs, what is chosen for the blocks so far), and a forward pass starts after the last block
whose states are known. Embeddings, masks and positions are computed as always, so the result is the one of a full pass,
bit by bit.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.inference.block_stand_in import BlockStandIn, Outcome, count_outcome_bytes, read_outcome
from pruning.reduction.install import list_acting_stages
from search_spaces.architecture import Architecture
from search_spaces.schedule import Source

Prefix = tuple[str, ...]
GIB = 1 << 30


@dataclass
class _Run:
    """The states that one candidate left behind for one batch."""

    states: dict[Prefix, Outcome] = field(default_factory=dict)
    used: int = 0  # the last candidate that resumed from it, or made it

    @property
    def nbytes(self) -> int:
        return sum(map(count_outcome_bytes, self.states.values()))


class PrefixStore:
    """States by batch and prefix, bounded in bytes; whole runs are forgotten, least recently used first.

    A hit on any state of a run keeps all of it, so the parent and the best candidates, which others branch off
    from, stay. What the last two candidates used is never given up for what the current one leaves: a model whose
    states do not fit keeps those of some batches instead of turning all of them over.

    Example:
        >>> store = PrefixStore(capacity=1 << 30)
        >>> make_resumable(candidate, anatomy, list_prefixes(architecture), store)
    """

    def __init__(self, capacity: int = GIB) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self.capacity, self.nbytes = capacity, 0
        self.candidate = 0  # counts candidates
        self.computed = self.skipped = 0  # blocks
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._where: dict[tuple[str, Prefix], int] = {}
        self._made = 0

    def find_longest(self, batch: str, prefixes: list[Prefix]) -> tuple[int, Outcome | None]:
        """How many of the candidate's blocks need not run, and the states that leave them."""
        for done in range(len(prefixes), 0, -1):
            run = self._where.get((batch, prefixes[done - 1]))
            if run is not None:
                self._runs.move_to_end(run)
                self._runs[run].used = self.candidate
                return done, self._runs[run].states[prefixes[done - 1]]
        return 0, None

    def open(self) -> int:
        """A new run; states are kept under its number."""
        self._made += 1
        self._runs[self._made] = _Run(used=self.candidate)
        return self._made

    def keep(self, run: int, batch: str, prefix: Prefix, state: Outcome) -> None:
        """Keep a state if there is room, or room can be made."""
        if run not in self._runs or (batch, prefix) in self._where or not self._evict(run, count_outcome_bytes(state)):
            return
        self._runs[run].states[prefix] = state
        self._where[batch, prefix] = run
        self.nbytes += count_outcome_bytes(state)

    def _evict(self, own: int, nbytes: int) -> bool:
        while self.nbytes + nbytes > self.capacity:
            oldest = next(iter(self._runs))
            if oldest == own or self._runs[oldest].used >= self.candidate - 1:
                return False
            forgotten = self._runs.pop(oldest)
            self.nbytes -= forgotten.nbytes
            self._where = {key: run for key, run in self._where.items() if run != oldest}
        return True


def make_resumable(candidate: Any, anatomy: Anatomy, prefixes: list[Prefix], store: PrefixStore) -> None:
    """Let a pruned model start each pass after the blocks whose outcome the store knows. In place; for inference.

    Args:
        candidate: from `prune`; not to be saved afterwards.
        anatomy: of the parent.
        prefixes: for every kept block, what the states that leave it depend on; of the first blocks only, where
            others cannot be skipped.
        store: shared by the candidates of one parent.
    """
    store.candidate += 1
    blocks: nn.ModuleList = candidate.get_submodule(anatomy.stack)
    shared = _Pass(store, prefixes, len(blocks))
    for position, block in enumerate(blocks):
        blocks[position] = _Step(block, position, shared)
    owner = candidate.get_submodule(anatomy.stack.rpartition(".")[0])
    owner.register_forward_pre_hook(shared.begin, with_kwargs=True)


def list_prefixes(architecture: Architecture) -> list[Prefix]:
    """For every kept block, what is chosen up to and including it; none from where tokens are ranked and dropped."""
    removed = set(architecture.list_removed_blocks())
    whole = _count_whole_blocks(architecture)
    prefixes: list[Prefix] = []
    so_far: Prefix = ()
    for layer in range(architecture.depth):
        if layer not in removed:
            so_far = (*so_far, f"{layer}:{' '.join(map(str, architecture.list_block_choices(layer)))}")
            prefixes.append(so_far)
    return prefixes[:whole]


def _count_whole_blocks(architecture: Architecture) -> int:
    """How many of the kept blocks may be skipped: those before the first block whose states a stage ranks."""
    removed, reduction = set(architecture.list_removed_blocks()), architecture.tokens.reduction
    left = [layer for layer in range(architecture.depth) if layer not in removed]
    indices = [
        left.index(stage.block - 1) if reduction.source is Source.PREVIOUS and stage.block - 1 in left else index
        for index, stage in list_acting_stages(architecture)
    ]
    return min(indices, default=len(left))


class _Pass:
    """Where the current pass of a candidate starts, and what it leaves."""

    def __init__(self, store: PrefixStore, prefixes: list[Prefix], blocks: int) -> None:
        self.store, self.prefixes, self.blocks = store, prefixes, blocks
        self.batch, self.run, self.known = "", 0, 0
        self.state: Outcome | None = None
        self.caching = False  # the current pass reads or leaves keys and values

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A new batch: look up how far it is known. A pass with a cache runs in full: its inputs do not tell all."""
        self.caching = bool(kwargs.get("use_cache")) or kwargs.get("past_key_values") is not None
        if self.caching:
            self.known, self.state = 0, None
            return
        self.batch = _compute_digest([*args, *kwargs.values()])
        self.known, self.state = self.store.find_longest(self.batch, self.prefixes)
        self.run = self.store.open()
        self.store.skipped += self.known
        self.store.computed += self.blocks - self.known

    def leave(self, position: int, state: Outcome) -> None:
        """The states that leave a block that ran, if all tokens are among them."""
        if self.caching or position >= len(self.prefixes):
            return
        self.store.keep(self.run, self.batch, self.prefixes[position], state)


class _Step(BlockStandIn):
    """A block of a resumable model: runs, or hands on the states that are known."""

    def __init__(self, block: nn.Module, position: int, shared: _Pass) -> None:
        super().__init__(block)
        self.position, self.shared = position, shared

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output, computed or known."""
        shared = self.shared
        if self.position < shared.known:
            assert shared.state is not None
            return shared.state
        output = self.block(*args, **kwargs)
        shared.leave(self.position, read_outcome(output))
        return output


def _compute_digest(values: list[Any]) -> str:
    """Names the tensors a pass is given."""
    hashed = hashlib.sha1(usedforsecurity=False)
    for value in values:
        if isinstance(value, Tensor):
            raw = value.detach().cpu().contiguous()
            hashed.update(f"{raw.dtype}{tuple(raw.shape)}".encode())
            hashed.update(raw.flatten().view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
    return hashed.hexdigest()
