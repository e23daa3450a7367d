"""Token reduction becomes part of a pruned model."""

import inspect
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.cache_utils import DynamicCache

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import is_vision_language
from pruning.inference.kv_cache import find_windows
from pruning.reduction.hooks import BlockEntry, Step, TokenHooks
from pruning.reduction.layout import TokenLayout, read_token_layout
from pruning.reduction.projections import Projections, read_projections
from pruning.reduction.ranker import NAME, Ranker
from pruning.reduction.ranking_check import check_attention
from pruning.reduction.training import supervise
from pruning.reduction.vision_tower import Tower, TowerWatch, read_tower
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.schedule import Positions, Reducer, Reduction, Scorer, Source, Stage

_ASKING = (Scorer.LAST, Scorer.CLASS, Scorer.MEAN)  # scores that are attention
_BLIND = (Scorer.NORM, Scorer.RANDOM)  # scores that need neither queries nor keys


@dataclass(frozen=True)
class ReductionPlan:
    """What is read from a parent before anything is taken out of it.

    Attributes:
        rankers: by the block at which a stage begins, in the parent.
        windows: of every block that is left; None for all tokens.
        layer_types: of every block of the parent, where positions depend on them; None where they do not.
        tower: the vision tower, where it ranks.
    """

    layout: TokenLayout
    reduction: Reduction
    rankers: dict[int, Projections]
    windows: tuple[int | None, ...]
    layer_types: tuple[str, ...] | None
    tower: Tower | None = None


def list_acting_stages(architecture: Architecture) -> tuple[tuple[int, Stage], ...]:
    """Where the stages of an architecture act: (index among the blocks that are left, stage).

    A stage whose block is removed acts at the next block that is left, and not at all after the last. Two at one
    index act one after the other, as they do with the blocks between them, so the smaller ratio is left.
    """
    left = _list_remaining(architecture)
    acting = []
    for stage in architecture.tokens.stages:
        index = next((index for index, layer in enumerate(left) if layer >= stage.block), None)
        if index is not None:
            acting.append((index, stage))
    return tuple(acting)


def check_reduction(anatomy: Anatomy, architecture: Architecture) -> None:
    """Refuse a reduction that this parent has no tokens, queries or order for.

    Raises:
        ArchitectureError: see the messages.
    """
    stages, reduction = architecture.tokens.stages, architecture.tokens.reduction
    if not stages:
        return
    windows = find_windows(architecture)
    if windows:
        raise ArchitectureError(
            f"blocks {', '.join(map(str, sorted(windows)))} see a window of tokens, some of which a schedule drops; "
            "leave the windows or the schedule out"
        )
    if anatomy.part is not None:
        raise ArchitectureError(
            f"the {anatomy.part} stack of a {anatomy.family} drops no tokens; leave the schedule out"
        )
    if reduction.reducer is Reducer.MERGE and anatomy.is_decoder:
        raise ArchitectureError(
            f"merged tokens have no place in the order of a decoder ({anatomy.family}); use the reducer drop or recycle"
        )
    if reduction.scorer is Scorer.CLASS and anatomy.is_decoder and reduction.source is not Source.TOWER:
        raise ArchitectureError(f"{anatomy.family} is a decoder and has no class token to ask; use the scorer last")
    if reduction.source is Source.TOWER and reduction.scorer is not Scorer.CLASS:
        raise ArchitectureError(f"a vision tower is asked by its class token, not by {reduction.scorer}; use class")
    if reduction.source is Source.PREVIOUS and stages[0].block == 0 and not _needs_nothing(reduction):
        raise ArchitectureError("no block runs before block 0; rank there by the next block, or begin at block 1")


def check_ranking(model: Any, anatomy: Anatomy, architecture: Architecture) -> None:
    """Refuse to rank by the attention of blocks that compute another one than is read from them.

    Args:
        model: the parent; what comes of it is not asked again. On the meta device there is nothing to ask.

    Raises:
        UnreadableModel: from `check_attention`.
    """
    reduction = architecture.tokens.reduction
    asks = (
        reduction.scorer in _ASKING and reduction.source is not Source.TOWER and reduction.reducer is not Reducer.MERGE
    )
    if asks and not next(model.parameters()).is_meta:
        stages = list_acting_stages(anatomy.merge_blocks(architecture))
        check_attention(model, anatomy, (_find_ranking_block(stage, reduction) for _, stage in stages))


def plan_reduction(model: Any, anatomy: Anatomy, architecture: Architecture) -> ReductionPlan | None:
    """What the stages of an architecture need of the parent; None where it drops no tokens. Call before surgery.

    Args:
        model: the parent, or one of its shape that is about to be loaded.
        anatomy: of `model`.
        architecture: of the parent's depth.

    Raises:
        ArchitectureError: from `check_reduction`.
        UnreadableModel: no queries and keys were found.
    """
    check_reduction(anatomy, architecture)
    stages, reduction = architecture.tokens.stages, architecture.tokens.reduction
    if not stages:
        return None
    if reduction.positions is Positions.COMPACTED and has_axes(model):
        raise ArchitectureError(
            f"{anatomy.family} numbers image tokens along three axes, which cannot be numbered anew; keep positions"
        )
    rankers = {}
    if reduction.source is not Source.TOWER and not _needs_nothing(reduction):
        for _, stage in list_acting_stages(architecture):
            rankers[stage.block] = _find_projections(model, anatomy, _find_ranking_block(stage, reduction))
    tower = read_tower(model) if reduction.source is Source.TOWER else None
    windows, kinds = _list_windows(model, anatomy, architecture), _list_layer_types(model)
    return ReductionPlan(read_token_layout(model, anatomy), reduction, rankers, windows, kinds, tower)


def has_axes(model: Any) -> bool:
    """Whether image tokens are numbered along several axes, as in Qwen2-VL: such numbers cannot be given anew."""
    return "mrope_section" in _find_rope(model)


def install(model: Any, anatomy: Anatomy, architecture: Architecture, reducing: ReductionPlan) -> None:
    """Register the hooks on a pruned model. `architecture` has the removed blocks that `model` lacks."""
    left, blocks = _list_remaining(architecture), model.get_submodule(anatomy.stack)
    alive = {id(module) for module in model.modules()}
    steps = tuple(
        _keep_alive(_build_step(index, stage, reducing, left), blocks, reducing.reduction, alive)
        for index, stage in list_acting_stages(architecture)
    )
    if not steps:
        return
    generates = anatomy.is_decoder and model.get_output_embeddings() is not None
    insists = _insists_on_length(model.get_submodule(anatomy.stack.rpartition(".")[0]))
    hooks = TokenHooks(
        reducing.layout,
        reducing.reduction,
        steps,
        reducing.windows,
        causal=anatomy.is_decoder,
        restores=insists or not generates,
        cuts=insists and generates,
    )
    reader = _find_reader(model, anatomy)
    hooks.config = find_language_config(model)
    _register(reader, blocks, hooks)
    if reducing.tower is not None:
        hooks.tower = TowerWatch(reducing.tower.projections)
        reducing.tower.block.register_forward_pre_hook(hooks.tower, with_kwargs=True)
    if generates:
        supervise(model, reader, hooks)


def _find_reader(model: Any, anatomy: Anatomy) -> nn.Module:
    """The module that reads the model's inputs and runs the blocks: its pass is the pass.

    For a decoder of text the one that owns the blocks, as some heads call it past the base model (OPT); for others
    the base model, which sees masks as they were given, pixels, and ids where the owner of the blocks does not.
    """
    if anatomy.is_decoder and not is_vision_language(model):
        owner: nn.Module = model.get_submodule(anatomy.stack.rpartition(".")[0])
        return owner
    base: nn.Module = getattr(model, "base_model", model)
    return base


def _register(reader: nn.Module, blocks: nn.ModuleList, hooks: TokenHooks) -> None:
    reader.register_forward_pre_hook(hooks.begin, with_kwargs=True, prepend=True)
    reader.register_forward_hook(hooks.end, always_call=True)
    first = min(step.index if step.watched is None else step.watched for step in hooks.acting)
    for index in range(first, len(blocks)):
        blocks[index].register_forward_pre_hook(BlockEntry(hooks, index), with_kwargs=True)
    blocks[-1].register_forward_hook(hooks.leave)
    for rotary in _list_rotaries(reader):
        rotary.register_forward_hook(hooks.record_rotation, with_kwargs=True)


def _needs_nothing(reduction: Reduction) -> bool:
    """Whether neither queries nor keys are needed: to rank tokens or to compare them."""
    return reduction.scorer in _BLIND and reduction.reducer is Reducer.DROP


def _list_remaining(architecture: Architecture) -> list[int]:
    removed = set(architecture.list_removed_blocks())
    return [layer for layer in range(architecture.depth) if layer not in removed]


def _find_projections(model: Any, anatomy: Anatomy, block: int) -> Projections:
    return read_projections(model.get_submodule(anatomy.stack)[block], anatomy.blocks[block])


def _keep_alive(step: Step, blocks: nn.ModuleList, reduction: Reduction, alive: set[int]) -> Step:
    """Where the attention that ranks is gone, its weights become part of the block at which the stage acts."""
    if step.ranker is None or id(step.ranker.key.module) in alive:
        return step
    asks = reduction.scorer is not Scorer.KEYS and reduction.reducer is not Reducer.MERGE
    norm_stays = step.ranker.norm is None or id(step.ranker.norm) in alive
    ranker = Ranker(step.ranker, norm_stays, asks)
    blocks[step.index].add_module(f"{NAME}_{step.stage.block}", ranker)
    return replace(step, ranker=ranker.take(step.ranker))


def _find_rope(model: Any) -> dict[str, Any]:
    return getattr(find_language_config(model), "rope_parameters", None) or {}


def _build_step(index: int, stage: Stage, reducing: ReductionPlan, left: list[int]) -> Step:
    block = _find_ranking_block(stage, reducing.reduction)
    watched = None
    if reducing.reduction.source is Source.PREVIOUS and block in left:
        watched = left.index(block)
    ranker = reducing.rankers.get(stage.block)
    kinds = reducing.layer_types if ranker is not None and watched is None else None
    return Step(index, stage, ranker, watched if ranker is not None else None, None if kinds is None else kinds[block])


def _find_ranking_block(stage: Stage, reduction: Reduction) -> int:
    return stage.block - 1 if reduction.source is Source.PREVIOUS else stage.block


def _list_rotaries(base: nn.Module) -> list[nn.Module]:
    return [module for name, module in base.named_modules() if name.rpartition(".")[2] == "rotary_emb"]


def _list_layer_types(model: Any) -> tuple[str, ...] | None:
    """Of each block, where cosines and sines depend on it."""
    takes = [
        inspect.signature(rotary.forward).parameters for rotary in _list_rotaries(getattr(model, "base_model", model))
    ]
    types = getattr(find_language_config(model), "layer_types", None)
    return tuple(types) if types and any("layer_type" in names for names in takes) else None


def _insists_on_length(trunk: nn.Module) -> bool:
    """Whether a trunk gives its states the shape of its input, as GPT-2 and its relatives do."""
    return "output_shape" in inspect.getsource(type(trunk).forward)


def _list_windows(model: Any, anatomy: Anatomy, architecture: Architecture) -> tuple[int | None, ...]:
    """Of the attention of each block that is left, as the library's own cache has them."""
    left = _list_remaining(architecture)
    if not anatomy.is_decoder:
        return (None,) * len(left)
    layers = DynamicCache(config=find_language_config(model)).layers
    return tuple(getattr(layers[layer], "sliding_window", None) for layer in left)
