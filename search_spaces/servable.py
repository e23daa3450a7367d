"""What other engines can serve: rules that take units out of a space before the search."""

from dataclasses import replace
from enum import StrEnum

from search_spaces.errors import ArchitectureError, UsageError
from search_spaces.kinds import KINDS, Kind
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, list_kinds


class Servable(StrEnum):
    """Where the winner has to load.

    - any: our own runtime, ONNX, TensorRT.
    - decilm: folders with per-block choices (DeciLM, nemotron-nas, GGUF): several engines take the cache's length
      from layer 0, so its attention stays, and some cannot end on a block without an MLP, so that one stays too.
    - vanilla: whole blocks only, so that plain Hugging Face classes and every engine load it.
    - uniform: every attention that is left has the parent's number of key-value heads, every mixture its number of
      experts and of experts for a token: many engines read one number for all blocks.
    """

    ANY = "any"
    DECILM = "decilm"
    VANILLA = "vanilla"
    UNIFORM = "uniform"


def parse_servable(text: str) -> Servable:
    """Read a rule's name.

    Raises:
        UsageError: it is none.
    """
    if text not in set(Servable):
        raise UsageError(f"servable {text!r} is none of {', '.join(Servable)}")
    return Servable(text)


def restrict(space: Space, servable: Servable) -> Space:
    """The space without what the rule forbids.

    Raises:
        ArchitectureError: nothing is left to drop.
    """
    if servable is Servable.ANY:
        return space
    chosen = _RULES[servable](space)
    if not chosen:
        raise ArchitectureError(f"servable {servable!s} leaves nothing to drop of these units; allow more with --units")
    return replace(space, choices=(*chosen, *space.steps))  # engines see the same model with fewer tokens


def _list_whole_blocks(space: Space) -> tuple[Choice, ...]:
    blocks = (Unit(layer, Kind.BLOCK).dropped for layer in range(space.depth))
    return tuple(block for block in blocks if space.contains(space.decode({block})))


def _restrict_to_decilm(space: Space) -> tuple[Choice, ...]:
    """Neither the first attention nor the last MLP dropped or replaced, nor the blocks that hold them."""
    last = space.depth - 1
    fixed = (Unit(0, Kind.ATTENTION), Unit(0, Kind.BLOCK), Unit(last, Kind.MLP), Unit(last, Kind.BLOCK))
    return tuple(
        choice
        for choice in space.structure
        if choice.unit not in fixed or space.parent.drop(choice).runs(choice.layer, choice.kind)
    )


def _list_uniform(space: Space) -> tuple[Choice, ...]:
    """Nothing that changes a number which engines read once for all blocks."""
    return tuple(choice for choice in space.structure if not any(KINDS[name].counted for name in list_kinds(choice)))


_RULES = {
    Servable.DECILM: _restrict_to_decilm,
    Servable.VANILLA: _list_whole_blocks,
    Servable.UNIFORM: _list_uniform,
}
