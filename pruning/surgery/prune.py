"""Taking units out of a model: the parent stays as it is, the result has neither their weights nor their norms."""

import copy
from typing import Any

import torch
from torch import nn

from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.part import Part
from pruning.inference.kv_cache import adapt_decoding, fit_cache_to_decoder
from pruning.reduction.install import check_ranking, check_reduction, install, plan_reduction
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.block_removal import remove_blocks
from pruning.surgery.replacement import replace_modules
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.kinds import AFTER_BLOCKS
from search_spaces.space import is_empty
from search_spaces.unit import list_kinds

RECORD = "nas_architecture"  # the key in the config of a pruned model
PARENT_CONFIG = "nas_parent_config"  # on a pruned model: the config from which its parent is built


def prune(
    model: Any,
    architecture: Architecture,
    *,
    anatomy: Anatomy | None = None,
    share_weights: bool = False,
    library: BlockLibrary | None = None,
) -> Any:
    """A new model whose units have the levels of `architecture`; `model` is not modified.

    Args:
        model: the parent, a Hugging Face transformer.
        architecture: the levels that are not the parent's; of the parent's depth.
        anatomy: the parent's, when it was read before.
        share_weights: let the kept parameters be the parent's own tensors, so that a candidate costs no memory.
            Do not train such a model.
        library: of the parent; its candidates share all weights, those of narrower parts too.

    Raises:
        ArchitectureError: another depth than the parent's, a level that it cannot have, or nothing would be left.
        UnreadableModel: from `read_anatomy`, or tokens cannot be ranked by the parent's attention.
    """
    anatomy = anatomy or read_anatomy(model)
    check_fits(anatomy, architecture)
    check_ranking(model, anatomy, architecture)
    pruned = copy_module(model, share_tensors=share_weights or library is not None)
    apply(pruned, anatomy, architecture, library=library)
    return pruned


def read_architecture(model: Any, depth: int) -> Architecture:
    """What of its parent, of `depth` blocks, a model is; a model that was not pruned is its own parent."""
    record = getattr(model.config, RECORD, None)
    return Architecture.parent(depth) if record is None else Architecture.from_json(record)


def check_fits(anatomy: Anatomy, architecture: Architecture) -> None:
    """Refuse an architecture that is not one of this parent.

    Raises:
        ArchitectureError: another depth, everything dropped, a level that a block cannot have, or tokens that this
            parent cannot drop in that way.
    """
    if architecture.depth != anatomy.depth:
        raise ArchitectureError(
            f"the architecture has {architecture.depth} blocks and the parent {anatomy.depth}; it is another parent's"
        )
    offered = {(known.unit, kind) for known in anatomy.choices for kind in list_kinds(known)}
    for choice in sorted(architecture.structure.choices):
        if any((choice.unit, kind) not in offered for kind in list_kinds(choice)):
            place = f"block {choice.layer} of {anatomy.family}" if choice.kind.in_blocks else anatomy.family
            raise ArchitectureError(f"{choice}: {place} cannot have it; leave it out")
    if is_empty(architecture):
        raise ArchitectureError(f"the architecture drops all {anatomy.depth} blocks; keep at least one unit")
    check_reduction(anatomy, architecture)


@torch.no_grad()
def apply(
    model: Any,
    anatomy: Anatomy,
    architecture: Architecture,
    whole: Architecture | None = None,
    library: BlockLibrary | None = None,
) -> None:
    """Give units their levels in place: for a fresh copy of the parent, or a parent-shaped model about to be loaded.

    Args:
        model: changed.
        anatomy: of `model`.
        architecture: the levels that it gets.
        whole: of the parent, where `model` lacks the removed blocks already; recorded, and its token stages installed.
        library: of the parent; None builds from `model`'s own weights what stands in its blocks.
    """
    setattr(model, PARENT_CONFIG, copy.deepcopy(model.config))
    blocks: nn.ModuleList = model.get_submodule(anatomy.stack)
    whole = architecture if whole is None else whole
    architecture, whole = anatomy.merge_blocks(architecture), anatomy.merge_blocks(whole)
    reducing = plan_reduction(model, anatomy, whole)
    removed = set(architecture.list_removed_blocks())
    library = library or BlockLibrary(model, anatomy)
    for layer in range(anatomy.depth):
        if layer not in removed:
            replace_modules(blocks[layer], library.take(layer, architecture.list_block_choices(layer)))
    behind = architecture.list_block_choices(AFTER_BLOCKS)
    if behind:
        replace_modules(model, library.take(AFTER_BLOCKS, behind))
    remove_blocks(model, anatomy.stack, removed)
    setattr(model.config, RECORD, whole.to_json())
    if anatomy.part == Part.ENCODER:
        fit_cache_to_decoder(model)
    if anatomy.is_decoder:
        adapt_decoding(model, anatomy, architecture, reduces=reducing is not None)
    if reducing is not None:
        install(model, anatomy, whole, reducing)
