"""What a transformer is made of, read from its structure: embedding, blocks of attention and MLP, head.

Nothing here is a table of module paths. The stack of blocks is the `ModuleList` as long as the config says the
model is deep; in a vision-language model it is its language model's, and vision tower and projector are stem.
Inside a block, one tiny forward pass tells the rest: attention is what mixes tokens, a norm's place follows from
what it reads, and a contribution is what is added to the residual stream.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pruning.anatomy.branch_reader import read_branches, read_whole
from pruning.anatomy.contribution import BlockAnatomy, Layout, has_stream, read_block
from pruning.anatomy.drop_check import check_drops, mark_needed, mark_unread, removes_blocks, settle_forms
from pruning.anatomy.head import read_head
from pruning.anatomy.language_model import find_language_config, find_language_path, is_vision_tower
from pruning.anatomy.likeness import describe_form
from pruning.anatomy.nature import name_natures
from pruning.anatomy.part import Part, get_part, is_encoder_decoder, is_vision_language, prunes_vision
from pruning.anatomy.probe import (
    Arguments,
    BlockTrace,
    Call,
    find_stream,
    make_probe_inputs,
    record_inputs,
    trace_block,
)
from pruning.anatomy.sum_reader import read_sum
from pruning.inference.light_copy import copy_lightly
from pruning.inference.residency import release_weights
from pruning.kinds import find_savings
from pruning.surgery.config_blocks import find_depth_name
from pruning.surgery.dropped import Dropped
from search_spaces.architecture import Architecture, make_choice
from search_spaces.errors import ArchitectureError, UnreadableModel
from search_spaces.kinds import KINDS, KNOWN_PARTS, PARTS, Kind
from search_spaces.level import KEEP
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, list_kinds


@dataclass(frozen=True)
class Anatomy:
    """The readable structure of one model. Paths are dotted module names.

    Example:
        >>> anatomy = read_anatomy(model)
        >>> space = anatomy.build_space(["attention", "mlp"])
    """

    family: str
    depth: int
    hidden_size: int
    layout: Layout
    stack: str  # path of the ModuleList of blocks
    blocks: tuple[BlockAnatomy, ...]
    is_decoder: bool
    head: BlockAnatomy | None = None  # what follows the blocks, where anything may be chosen for it
    removes_blocks: bool = True  # whether blocks can be taken out; if not, those without parts stay and do nothing
    part: str | None = None  # of several stacks, the one that this is: encoder, decoder or vision

    @property
    def parts(self) -> tuple[Kind, ...]:
        """The kinds of parts that blocks of this model may have, in the order in which they run."""
        known = {kind for block in self.blocks for kind in block.parts}.union(PARTS)
        return tuple(kind for kind in KNOWN_PARTS if kind in known)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Everything that a search may choose for any of the blocks, and for the head."""
        places = self.blocks if self.head is None else (*self.blocks, self.head)
        return tuple(sorted(choice for place in places for choice in place.saves))

    def get_place(self, model: Any, layer: int) -> tuple[nn.Module, BlockAnatomy]:
        """The module of such a model that holds the units of a layer, and its anatomy: a block, or the model itself."""
        if layer < self.depth:
            return model.get_submodule(self.stack)[layer], self.blocks[layer]
        assert self.head is not None, "only what a model can have is chosen for it"
        return model, self.head

    @property
    def resumes(self) -> bool:
        """Whether a pass may begin behind blocks whose outcome is known; a projector may read any block of a tower."""
        return self.part != Part.VISION

    @property
    def merges_blocks(self) -> bool:
        """Whether a block with all units dropped is the same model as one without the block."""
        return self.removes_blocks and all(block.passes for block in self.blocks)

    def count_natures(self, architecture: Architecture | None = None) -> dict[str, int]:
        """How many parts of each nature an architecture has; None: the parent.

        A part that is several things in one counts by all their names, as `state_space+attention`.
        """
        present = [
            "+".join(part.natures)
            for block in self.blocks
            for kind, part in block.parts.items()
            if architecture is None or architecture.runs(block.index, kind)
        ]
        return dict(Counter(present))

    def merge_blocks(self, architecture: Architecture) -> Architecture:
        """An architecture as it is written: bare blocks as removed ones, where these are the same model."""
        return architecture.merge_blocks(self.parts) if self.merges_blocks else architecture

    def count_parameters(self, chosen: Unit | Choice) -> int:
        """How many parameters are gone with one choice alone; a unit stands for dropping it.

        Raises:
            ArchitectureError: no block of this model can have it.
        """
        choice = make_choice(chosen)
        if choice.kind.in_blocks and not 0 <= choice.layer < self.depth:
            raise ArchitectureError(
                f"{choice} is out of range: the model has {self.depth} blocks, 0 to {self.depth - 1}"
            )
        place = self.blocks[choice.layer] if choice.kind.in_blocks else self.head
        saves = {} if place is None else place.saves
        if choice not in saves:
            known = ", ".join(map(str, saves)) or "nothing to choose"
            raise ArchitectureError(f"{choice} is no choice of this model; its block has {known}")
        return saves[choice]

    def build_space(self, names: Collection[str]) -> Space:
        """The architectures that combine the levels of these kinds of units, by their names in `KINDS`.

        A block is a unit of its own where its norms make a difference (post-norm), or where only blocks may go.
        """
        kinds = [KINDS[name] for name in names]
        dropped = {kind.slot for kind in kinds if kind.axis == KEEP}
        wholes = {kind for kind in kinds if kind.swallows and dropped.issuperset({*kind.swallows} & {*self.parts})}
        same = wholes if self.merges_blocks else set()
        asked = {kind.name for kind in kinds if kind not in same}
        whole = {
            Unit(block.index, Kind.BLOCK).dropped
            for block in self.blocks
            if not block.has_both and {*block.parts, Kind.BLOCK} & dropped
        }  # whose part and block are one unit
        choices = tuple(choice for choice in self.choices if list_kinds(choice) <= asked or choice in whole)
        return Space(self.depth, choices, self.merges_blocks, parts=self.parts)


def read_anatomy(model: Any) -> Anatomy:
    """Read the structure of a Hugging Face transformer, running it on a tiny random input.

    One of each kind of block is then run by itself, as a float32 copy with random weights, so neither the precision
    nor the values of the weights matter; the memory of a few such copies is needed. Last, every part is dropped once,
    and the outcome compared with that of a zero in its place. `model` is left as it was. Of a model of several stacks
    the one is read that was selected (`select_part`).

    Raises:
        UnreadableModel: models in which no block structure is found, and those that do not run without a part; the
            message says what was looked for.
    """
    _refuse(model)
    width = None if prunes_vision(model) else _read_size(model, "hidden_size")
    stack = _find_stack(model)
    blocks = model.get_submodule(stack)
    depth, part = len(blocks), get_part(model)
    _refuse_shared(model, blocks)
    model = copy_lightly(model)
    blocks = model.get_submodule(stack)
    settings = {"use_cache": False} if _has_cache(model) else {}
    versions = _read_versions(model)
    arguments = record_inputs(model, blocks, **settings)
    _refuse_changing(model, versions)
    width = width or find_stream(arguments[0]).shape[-1]
    _refuse_tokens_first(model, find_stream(arguments[0]))
    release_weights(model)  # what follows runs copies of single blocks
    read = _read_blocks(blocks, arguments, width)
    layout = _settle_layout(model, {block.layout for block in read})
    read = mark_needed(model, stack, read, arguments, **settings)
    read = mark_unread(model, stack, read) if part is Part.VISION else read
    check_drops(model, stack, read, **settings)
    removes = removes_blocks(model, stack, read, **settings)
    refused = next((block.unparted for block in read if block.unparted and not removes), "")
    if refused:
        raise UnreadableModel(f"{refused}; nor can whole blocks be taken out, as others then compute something else")
    read = tuple(_offer_whole_or_parts(block, removes) for block in read)
    head = None if part in (Part.ENCODER, Part.VISION) else read_head(model, layout, width, **settings)
    head = head and replace(head, saves=find_savings(_hold(model), head))
    decodes, name = part is Part.DECODER if part else _has_cache(model), part and str(part)
    return Anatomy(model.config.model_type, depth, width, layout, stack, read, decodes, head, removes, name)


def _refuse_shared(model: Any, blocks: nn.ModuleList) -> None:
    """What blocks share cannot be taken out of one of them."""
    owners: dict[int, int] = {}
    for index, block in enumerate(blocks):
        for parameter in block.parameters():
            other = owners.setdefault(id(parameter), index)
            if other != index:
                raise UnreadableModel(
                    f"{type(model).__name__}: looked for blocks with their own weights, {other} and {index} share some"
                )


def _read_versions(model: Any) -> dict[str, int]:
    """How often each parameter was changed in place; of what was made in inference mode nobody counts."""
    return {name: each._version for name, each in model.named_parameters() if not each.is_inference()}


def _refuse_changing(model: Any, versions: Mapping[str, int]) -> None:
    """Copies share weights, so one that scales its weights where it first runs would scale them for all."""
    after = _read_versions(model)
    changed = next((name for name, version in versions.items() if after[name] != version), None)
    if changed is not None:
        raise UnreadableModel(
            f"{type(model).__name__}: looked for a model that runs without changing its weights and found that it "
            f"changes {changed}"
        )


def _refuse_tokens_first(model: Any, stream: Tensor) -> None:
    """What takes items out of a batch, or leaves padding out, takes the first dimension of states for the items."""
    given = make_probe_inputs(model).get("input_ids")
    if given is not None and stream.shape[:2] == given.T.shape:
        raise UnreadableModel(
            f"{type(model).__name__}: looked for a residual stream of (batch, tokens, hidden) and found "
            "(tokens, batch, hidden)"
        )


def _settle_layout(model: Any, layouts: set[Layout]) -> Layout:
    """The layout of a model; norms behind parts of some of its blocks make it a sandwich."""
    if Layout.MIXED in layouts:
        return Layout.MIXED
    if layouts == {Layout.PRE_NORM, Layout.SANDWICH}:
        return Layout.SANDWICH
    if len(layouts) != 1:
        raise UnreadableModel(
            f"{type(model).__name__} mixes the residual layouts {', '.join(sorted(layouts))}; one is expected"
        )
    return layouts.pop()


def _offer_whole_or_parts(block: BlockAnatomy, removes: bool) -> BlockAnatomy:
    """A block of one part goes as a whole; where no block can be taken out, only parts go."""
    whole = {Unit(block.index, Kind.BLOCK).dropped}
    parts = {Unit(block.index, kind).dropped for kind in block.parts}
    hidden = set() if removes and block.has_both else parts if removes else whole
    return replace(block, saves={choice: count for choice, count in block.saves.items() if choice not in hidden})


def _read_blocks(blocks: nn.ModuleList, arguments: Sequence[Arguments], width: int) -> tuple[BlockAnatomy, ...]:
    """The anatomy of every block; of those that are alike, one is read."""
    known: dict[str, BlockAnatomy] = {}
    read = []
    for index, (block, given) in enumerate(zip(blocks, arguments, strict=True)):
        form = describe_form(block, given, width)
        if form not in known:
            known[form] = _read(index, block, given, width)
        read.append(known[form].move(index))
    return tuple(read)


def _read(index: int, block: nn.Module, arguments: Arguments, width: int) -> BlockAnatomy:
    try:
        tape = trace_block(block, arguments, width)
        anatomy = _read_tape(index, tape, width)
        return name_natures(replace(anatomy, saves=find_savings(tape.block, anatomy)), tape, width)
    except UnreadableModel:
        raise
    except Exception as error:  # parts that are put together in a way that nobody foresaw
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UnreadableModel(
            f"block {index} ({type(block).__name__}): looked for one attention and one MLP that add to the residual "
            f"stream and found parts that cannot be compared ({reason})"
        ) from error


def _read_tape(index: int, tape: BlockTrace, width: int) -> BlockAnatomy:
    """In the usual layouts, else as a sum, else by branches, else as one that only goes as a whole."""
    try:
        return settle_forms(read_block(index, tape, width), tape)
    except UnreadableModel as usual:
        if not has_stream(tape):
            raise
        for read in (read_sum, read_branches):
            try:
                return settle_forms(read(index, tape, width), tape)
            except UnreadableModel:
                continue
        return read_whole(index, tape, width, str(usual))


def _hold(model: Any) -> Call:
    """The model as what holds the head; it is not run."""
    return Call("", model, (), {}, [], [], [], None, 0)


def _refuse(model: Any) -> None:
    name = type(model).__name__
    if getattr(model, "config", None) is None:
        raise UnreadableModel(f"{name} has no config; give a Hugging Face transformer")
    if any(isinstance(module, Dropped) for module in model.modules()):
        raise UnreadableModel(f"{name} is pruned already: parts of its blocks are dropped; give its parent")
    two = hasattr(model.config, "vision_config") and hasattr(model.config, "text_config")
    if two and not is_vision_language(model) and not is_vision_tower(model):
        raise UnreadableModel(
            f"{name} ({model.config.model_type}) has two towers, and each is pruned by itself; say which with --part "
            "text or --part vision"
        )


def _read_size(model: Any, name: str) -> int:
    size = getattr(find_language_config(model), name, None)
    if not isinstance(size, int):
        raise UnreadableModel(f"{type(model).__name__}: looked for {name} in its config and found {size!r}")
    return size


def _find_stack(model: Any) -> str:
    """The path of the list of blocks, as long as the config says; the only list of a part of an encoder-decoder."""
    name = find_depth_name(find_language_config(model)) if prunes_vision(model) else "num_hidden_layers"
    depth = None if is_encoder_decoder(model) else _read_size(model, name)
    within = find_language_path(model)
    stacks: dict[str, nn.ModuleList] = {
        path: module
        for path, module in model.named_modules()
        if path.startswith(within)
        and isinstance(module, nn.ModuleList)
        and (len(module) == depth if depth else len(module) > 0)
        and all(any(True for _ in block.parameters()) for block in module)
    }
    outermost = [path for path in stacks if not any(path.startswith(f"{other}.") for other in stacks)]
    alike = [path for path in outermost if len({type(block) for block in stacks[path]}) == 1]
    found = alike or outermost  # hybrids have blocks of several classes
    if len(found) != 1:
        raise UnreadableModel(
            f"{type(model).__name__}: looked for one list of {depth or 'its'} blocks and found {len(found)} "
            f"({', '.join(found) or 'none'})"
        )
    return found[0]


def _has_cache(model: Any) -> bool:
    """Whether the model decodes with a key-value cache."""
    return hasattr(find_language_config(model), "use_cache") and bool(
        getattr(model, "can_generate", lambda: False)() or _is_causal(model)
    )


def _is_causal(model: Any) -> bool:
    """Whether a base model is the trunk of a decoder: its forward takes a cache and its config is no encoder's."""
    from inspect import signature

    parameters = signature(model.forward).parameters
    encoder = getattr(model.config, "is_decoder", None) is False
    return "past_key_values" in parameters and not encoder
