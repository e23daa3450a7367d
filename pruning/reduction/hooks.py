"""Hooks that shorten the sequence inside a model's own forward pass.

The states that enter the block of a stage are ranked and cut there; every later block is given masks and positions
of the shorter sequence. Nothing else of the model changes, so it is traced, trained and saved as any other.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.inference.kv_cache import Left, PrunedCache
from pruning.reduction.layout import TokenLayout
from pruning.reduction.masks import shorten_mask
from pruning.reduction.merge import log_sizes
from pruning.reduction.projections import Projections, Rotary
from pruning.reduction.ranking import Ranked, rank
from pruning.reduction.reducers import compute_metric, reduce_sequence
from pruning.reduction.sequence import Sequence, restore_length, take
from pruning.reduction.vision_tower import TowerWatch
from search_spaces.schedule import Positions, Reducer, Reduction, Stage

_MASKS = ("attention_mask", "attn_mask")
_ROTARY = "position_embeddings"


@dataclass(frozen=True)
class Step:
    """A stage in a pruned model.

    Attributes:
        index: of the block, among those that are left, at which it acts.
        ranker: queries and keys that rank; None where the score needs none.
        watched: index of the block whose input is ranked; None for the states that are cut.
        layer_type: of the block that ranks, where blocks of another type have other positions (Gemma 3).
    """

    index: int
    stage: Stage
    ranker: Projections | None
    watched: int | None = None
    layer_type: str | None = None


class TokenHooks:
    """The hooks of one model and the state of its current pass.

    Example:
        >>> schedule = Schedule.parse("2=0.5", Reduction(Scorer.NORM))
        >>> reduced = prune(model, Architecture.parent(4).replace_tokens(schedule))
        >>> hooks = next(
        ...     hook.hooks
        ...     for module in reduced.modules()
        ...     for hook in module._forward_pre_hooks.values()
        ...     if isinstance(hook, BlockEntry)
        ... )
    """

    def __init__(
        self,
        layout: TokenLayout,
        reduction: Reduction,
        steps: tuple[Step, ...],
        windows: tuple[int | None, ...],
        causal: bool,
        restores: bool,
        cuts: bool = False,
    ) -> None:
        """The hooks of a model.

        Args:
            windows: of the blocks that are left.
            restores: give the original length back after the last block.
            cuts: take it away again after the model without its head: where that insists on the length of its input.
        """
        self.layout, self.reduction, self.acting = layout, reduction, steps
        self.steps = {step.index: step for step in steps}  # of two at one place, the one that leaves fewer
        self.windows, self.causal, self.restores, self.cuts = windows, causal, restores, cuts
        self.proportional = reduction.reducer is Reducer.MERGE  # a merged key has the attention of all it stands for
        self.watched = {step.watched for step in steps}
        self.tower: TowerWatch | None = None  # where the vision tower ranks
        self.config: Any = None  # of the model: which attention it runs with
        self.asking: Tensor | None = None  # (B, N) bool: in training, the tokens that ask in place of the last
        self.clear()

    def clear(self) -> None:
        """Forget the pass."""
        self.inputs: dict[str, Any] = {}
        self.whole: Sequence | None = None  # before any stage
        self.now: Sequence | None = None  # None until something is dropped
        self.stage = -1  # the stage in force, by number
        self.seen: dict[int, Ranked] = {}
        self.turned: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
        self.memory: dict[Any, Any] = {}  # what blocks of one stage share

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass begins: what the model is given."""
        self.clear()
        self.inputs = name_arguments(module, args, kwargs)

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """A pass ends, or failed."""
        if self.tower is not None:
            self.tower.sight = None
        if self.now is not None and self.cuts and output is not None:
            output[0 if isinstance(output, tuple) else "last_hidden_state"] = take(output[0], self.now.indices)
        self.clear()
        return output

    def record_rotation(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Cosines and sines were computed: remember how."""
        self.turned.append((module, args, kwargs, output))

    def enter(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A block is about to run: cut the states, and all that goes with them."""
        given = name_arguments(module, args, kwargs)
        first = next(iter(given))
        hidden = given.pop(first)
        cache = next((value for value in given.values() if isinstance(value, PrunedCache)), None)
        if cache is not None and cache.seen > 0:
            return (hidden,), self._continue_arguments(index, hidden, given, cache)
        for step in self.acting:
            if step.index == index:
                hidden = self._cut(step, hidden, given, cache)
        if index in self.watched:  # what the block works on: already cut, where a stage begins here too
            self.seen[index] = self._build_ranked(hidden, given)
        return (hidden,), given if self.now is None else self._fit_arguments(index, hidden, given, self.now)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The last block ran: give the sequence its length back."""
        if self.now is None or not self.restores:
            return output
        if isinstance(output, tuple):
            return (restore_length(output[0], self.now), *output[1:])
        return restore_length(output, self.now)

    def _build_ranked(self, hidden: Tensor, given: dict[str, Any], layer_type: str | None = None) -> Ranked:
        """States and the cosines and sines that go with them, as they are in this pass."""
        rotary = given.get(_ROTARY)
        if layer_type is not None:
            rotary = next(
                output
                for module, args, kwargs, output in self.turned
                if name_arguments(module, args, kwargs).get("layer_type") == layer_type
            )
        return Ranked(hidden, rotary if self.now is None else self._select_rotary(hidden, rotary, self.now))

    def _cut(self, step: Step, hidden: Tensor, given: dict[str, Any], cache: PrunedCache | None) -> Tensor:
        if self.whole is None:
            self.whole = Sequence.start(hidden, self.layout.read(self.inputs, hidden))
        tokens = self.now or self.whole
        keep = _count_kept(step.stage, tokens)
        if isinstance(keep, int) and keep >= tokens.left:
            return hidden
        scores, metric = self._score_tokens(step, hidden, given, tokens)
        hidden, shorter = reduce_sequence(self.reduction.reducer, hidden, scores, metric, tokens, keep)
        if self.reduction.positions is Positions.COMPACTED and given.get(_ROTARY) is not None:
            shorter = shorter.renumber(given["position_ids"], self.whole.valid)
        self.now, self.stage = shorter, self.stage + 1
        if cache is not None:
            cache.left[step.index] = Left(hidden.shape[1], shorter.valid, shorter.shift)
        return hidden

    def _score_tokens(
        self, step: Step, hidden: Tensor, given: dict[str, Any], tokens: Sequence
    ) -> tuple[Tensor | None, Tensor | None]:
        """What a stage ranks tokens by, and what it compares them by; None where it does not."""
        if self.tower is not None and self.whole is not None:
            return self.tower.read_scores(tokens, self.whole)
        ranked = self._build_ranked(hidden, given, step.layer_type) if step.watched is None else self.seen[step.watched]
        reducer = self.reduction.reducer
        scores = None if reducer is Reducer.MERGE else rank(self.reduction, step.ranker, ranked, tokens, self.asking)
        return scores, compute_metric(reducer, step.ranker, ranked)

    def _fit_arguments(self, index: int, hidden: Tensor, given: dict[str, Any], now: Sequence) -> dict[str, Any]:
        """The block's other arguments, of the shorter sequence."""
        changed = dict(given)
        shape = (hidden.shape[0], hidden.shape[1], hidden.shape[1])
        bias = log_sizes(now.sizes).to(hidden.dtype) if self.proportional and now.sizes is not None else None
        for name in _MASKS:
            if name in given and (given[name] is not None or bias is not None):
                key = ("mask", self.stage, self.windows[index])
                changed[name] = self._compute_once(
                    key, shorten_mask, given[name], now.valid, shape, self.causal, self.windows[index], bias
                )
        if given.get("position_ids") is not None:
            changed["position_ids"] = now.positions if now.positions is not None else self._build_positions(given, now)
        if given.get(_ROTARY) is not None:
            changed[_ROTARY] = self._select_rotary(hidden, given[_ROTARY], now)
        return changed

    def _build_positions(self, given: dict[str, Any], now: Sequence) -> Tensor:
        numbers = given["position_ids"]
        if numbers.ndim == 3:  # one number per axis of an image
            return torch.stack([take(axis, now.indices) for axis in numbers])
        placed: Tensor = self._compute_once(("ids", self.stage), take, numbers, now.indices)
        return placed

    def _select_rotary(self, hidden: Tensor, rotary: Rotary | None, now: Sequence) -> Rotary | None:
        if rotary is None:
            return None
        if now.positions is not None:
            return self._recompute_rotary(hidden, rotary, now.positions)
        cosines, sines = (
            self._compute_once((name, self.stage, id(values)), take, values, now.indices)
            for name, values in zip(("cos", "sin"), rotary, strict=True)
        )
        return cosines, sines

    def _recompute_rotary(self, hidden: Tensor, rotary: Rotary, positions: Tensor) -> Rotary:
        """Cosines and sines of other positions, computed as those that a block was given."""
        key = ("again", self.stage, id(rotary))
        if key not in self.memory:
            module, args, kwargs = next(
                (module, args, kwargs) for module, args, kwargs, output in self.turned if output is rotary
            )
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            bound.arguments["position_ids"] = positions
            self.memory[key] = module.forward(*bound.args, **bound.kwargs)
        again: Rotary = self.memory[key]
        return again

    def _continue_arguments(
        self, index: int, hidden: Tensor, given: dict[str, Any], cache: PrunedCache
    ) -> dict[str, Any]:
        """Arguments of a block that adds tokens to a cache which an earlier pass cut."""
        stage = max((stage for stage in cache.left if stage <= index), default=-1)
        if stage < 0:
            return given
        if stage != self.stage:
            self.stage = stage
            cache.left[stage] = cache.left[stage].extend(hidden.shape[1], self.inputs.get("attention_mask"))
        left, window = cache.left[stage], self.windows[index]
        changed = dict(given)
        new = hidden.shape[1]
        held = left.count_within(window, new)
        for name in _MASKS:
            if name in given:
                valid = left.valid if window is None else left.select_last(held)
                shape = (hidden.shape[0], new, held)
                changed[name] = self._compute_once(
                    ("mask", stage, window, name), self._build_mask, given[name], valid, shape, window, hidden
                )
        if left.shift is not None and given.get(_ROTARY) is not None:
            changed["position_ids"] = given["position_ids"] - left.shift
            changed[_ROTARY] = self._recompute_rotary(hidden, given[_ROTARY], changed["position_ids"])
        return changed

    def _build_mask(
        self, given: Tensor | None, valid: Tensor | None, shape: tuple[int, int, int], window: int | None, like: Tensor
    ) -> Tensor | None:
        """A mask where padding or several new tokens need one, whatever the length that the given one is made for."""
        if given is None and valid is None and shape[1] == 1:
            return None
        kind = self.config._attn_implementation
        if given is None and kind.startswith("flash"):  # reads lengths from (batch, keys), and knows the order
            return valid
        if given is None:
            given = like.new_zeros((), dtype=None if kind == "eager" else torch.bool)
        return shorten_mask(given, valid, shape, True, window)

    def _compute_once(self, key: Any, function: Any, *args: Any) -> Any:
        """What blocks of one stage share is computed once."""
        if key not in self.memory:
            self.memory[key] = function(*args)
        return self.memory[key]


def _count_kept(stage: Stage, tokens: Sequence) -> Any:
    """How many droppable tokens a stage leaves: at least one, and no more than there are. May be a traced size."""
    if isinstance(tokens.count, int):
        return min(tokens.left, stage.count_kept(tokens.count)) if tokens.count > 1 else tokens.left
    min_count = torch.sym_max(1, stage.count_kept(tokens.count))  # type: ignore[no-untyped-call]
    return torch.sym_min(tokens.left, min_count)  # type: ignore[no-untyped-call]


class BlockEntry:
    """The hook of one block; a function would not survive a copy of the model.

    Example:
        >>> handle = block.register_forward_pre_hook(BlockEntry(hooks, index=3), with_kwargs=True)
    """

    def __init__(self, hooks: TokenHooks, index: int) -> None:
        self.hooks, self.index = hooks, index

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As `nn.Module.register_forward_pre_hook` calls it."""
        return self.hooks.enter(self.index, module, args, kwargs)


def name_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's forward by name, in order."""
    signature = inspect.signature(module.forward)
    named: dict[str, Any] = {}
    for name, value in signature.bind_partial(*args, **kwargs).arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named
