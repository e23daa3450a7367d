"""How one block adds to the residual stream: which modules write a contribution and which norms surround it.

Everything is decided by comparing the tensors that were seen in one forward pass (`probe.BlockTrace`):

- pre-norm     r = x + attention(norm(x)), y = r + mlp(norm(r))
- sandwich     r = x + norm(attention(norm(x))), y = r + norm(mlp(norm(r)))
- parallel     y = x + attention(norm(x)) + mlp(norm(x))
- post-norm    r = norm(x + attention(x)), y = norm(r + mlp(r))

In a decoder with an encoder, an attention to the encoder's states is added between the two, in the same way.

A part may also do the addition itself: it is given the stream beside its input, and returns their sum (BLOOM, MPT).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pruning.anatomy.probe import BlockTrace, Call, mixes_tokens
from pruning.anatomy.roles import (
    find_free_members,
    find_outermost,
    has_matrix,
    holds_any,
    is_inside_any,
    is_norm,
    is_same,
    is_vector,
    is_within,
)
from pruning.surgery.dropped import Form
from search_spaces.errors import UnreadableModel
from search_spaces.kinds import Kind
from search_spaces.unit import Choice

STREAM_DIMENSIONS = (2, 3)  # (tokens, hidden) or (batch, tokens, hidden)


class Layout(StrEnum):
    """Where the norms stand relative to the residual stream.

    Example:
        >>> read_anatomy(model).layout is Layout.PRE_NORM
        True
    """

    PRE_NORM = "pre_norm"
    SANDWICH = "sandwich"
    PARALLEL = "parallel"
    POST_NORM = "post_norm"
    MIXED = "mixed"  # the parts add to the stream in ways of their own


@dataclass(frozen=True)
class Contribution:
    """One unit inside its block. Paths are relative to the block.

    Attributes:
        writes: the module whose output is the contribution, before any norm or scale that follows it.
        members: the modules that hold the unit's weights, `writes` among them; they go with the unit.
        forms: of each member, how it returns its output.
        after: norms and scales between `writes` and the residual stream; they go with the unit.
        before: the norm that only feeds this unit, or is shared with another; None where the unit reads the
            residual stream itself.
        closes: in post-norm, the norm that is applied to the residual stream after the contribution was added;
            it stays when the unit goes.
        reads: the module whose first input is the residual stream that the unit reads; empty for the block itself.
        projection: the linear module within `writes` whose output is the contribution; None where there is none, as
            in a mixture of experts, or where it is added several times or with a scale other than `factor`.
        factor: by which the contribution, behind `after`, is multiplied before it is added.
        scale: the block's parameter by which it is multiplied in place of `factor`, as a layer scale; "" for none.
        scaled: whether the output is multiplied by constants, or one of several outputs, before it is added.
        norm_stays: whether the block reads weights of `before` itself, so that it stays when the unit goes.
        beside: further modules whose outputs reach the residual stream, where a unit adds in several places.
        natures: what the unit is by what it does (`pruning.anatomy.nature`), as `attention` or `moe`.

    Example:
        >>> read_anatomy(model).blocks[0].attention.before
        'input_layernorm'
    """

    writes: str
    members: tuple[str, ...]
    forms: tuple[Form, ...]
    after: tuple[str, ...]
    before: str | None
    closes: str | None
    reads: str = ""
    projection: str | None = None
    beside: tuple[str, ...] = ()
    scaled: bool = False
    factor: float = 1.0
    scale: str = ""
    norm_stays: bool = False
    natures: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The module whose output is what reaches the residual stream."""
        return self.after[-1] if self.after else self.writes

    @property
    def lasts(self) -> tuple[str, ...]:
        """All modules whose outputs reach the residual stream."""
        return (*self.beside, self.last)


@dataclass(frozen=True)
class BlockAnatomy:
    """One block: its layout, its contributions, and what may be chosen for it; or likewise what follows the blocks.

    Attributes:
        index: of the block; of what follows them, the layer of its units.
        hidden_size: of the residual stream.
        parts: the units by kind, in the order in which they run: attention and MLP or one of them, and between them
            the attention to an encoder. Their paths are relative to the block; of what follows the blocks, to the
            model.
        needed: kinds of parts that make more than their contribution, for other blocks; they cannot be dropped.
        saves: every choice that a search may make, and how many parameters are gone with it alone (a norm that both
            parts read stays with the other).
        passes: whether it hands on what it is given where its parts are gone; else it scales it or norms it.
        unread: whether nothing reads what leaves it, as of the last block of many vision towers; nothing is chosen
            for it.
        unparted: why its parts were not read, where it can only go as a whole: its one part is the block then.

    Example:
        >>> block = read_anatomy(model).blocks[3]
        >>> block.get_contribution(Kind.MLP).projection
        'mlp.down_proj'
    """

    index: int
    layout: Layout
    hidden_size: int
    parts: Mapping[Kind, Contribution]
    needed: frozenset[Kind] = frozenset()
    saves: dict[Choice, int] = field(default_factory=dict)
    passes: bool = True
    unread: bool = False
    unparted: str = ""

    def move(self, index: int) -> "BlockAnatomy":
        """The anatomy of a block like this one that has another index."""
        saves = {replace(choice.unit, layer=index).choose(choice.level): count for choice, count in self.saves.items()}
        return replace(self, index=index, saves=saves)

    def get_contribution(self, kind: Kind) -> Contribution:
        """The contribution of the attention or of the MLP."""
        return self.parts[kind]

    @property
    def attention(self) -> Contribution:
        """The contribution of a block's attention."""
        return self.parts[Kind.ATTENTION]

    @property
    def mlp(self) -> Contribution:
        """The contribution of a block's MLP."""
        return self.parts[Kind.MLP]

    @property
    def shared_norm(self) -> str | None:
        """The norm that feeds both units, if there is one."""
        norms = [part.before for part in self.parts.values()]
        return norms[0] if len(norms) > 1 and norms[0] == norms[1] else None

    @property
    def has_both(self) -> bool:
        """Whether attention and MLP can go one without the other; a block of one part goes as a whole."""
        return len(self.parts) > 1


def read_block(index: int, tape: BlockTrace, width: int) -> BlockAnatomy:
    """Read one block from its tape.

    Raises:
        UnreadableModel: when no attention, no MLP or no known residual layout is found.
    """
    reader = _Reader(index, tape, width)
    mixers = {Kind.ATTENTION: reader.read_attention()}
    residual = reader.read_after(reader.x, mixers[Kind.ATTENTION])
    cross = reader.read_cross_attention(mixers[Kind.ATTENTION], residual)
    if cross is not None:
        mixers[Kind.CROSS_ATTENTION] = cross
        residual = reader.read_after(residual, cross)
    mlp, layout = reader.read_mlp(tuple(mixers.values()), residual)
    return BlockAnatomy(index, layout, width, {**mixers, Kind.MLP: mlp})


def has_stream(tape: BlockTrace) -> bool:
    """Whether a block reads and writes a residual stream of (batch, tokens, hidden) or (tokens, hidden)."""
    block = tape.block
    return bool(block.inputs) and block.output is not None and len(block.shapes[0]) in STREAM_DIMENSIONS


def find_projection(calls: Sequence[Call], writer: Call) -> str | None:
    """The innermost linear module within a writer that gives its output."""
    inside = [call for call in calls if is_within(call.path, writer.path) and _is_projection(call.module)]
    giving = [call.path for call in inside if is_same(call.output, writer.output)]
    return max(giving, key=len, default=None)


class _Reader:
    def __init__(self, index: int, tape: BlockTrace, width: int) -> None:
        self.index, self.width = index, width
        self.calls = [call for call in tape.list_inner_calls() if call.output is not None]
        self.block = tape.block
        self.every_call = tape.list_inner_calls()
        if not self.block.inputs or self.block.output is None:
            raise self._build_error("a block that reads and writes the residual stream")
        shape = self.block.shapes[0]
        if len(shape) not in STREAM_DIMENSIONS:
            raise self._build_error(
                "a residual stream of (batch, tokens, hidden)", f"{len(shape)} dimensions, {tuple(shape)}"
            )
        self.x, self.y = self.block.inputs[0], self.block.output

    def read_attention(self) -> Contribution:
        mixing = [call for call in self.calls if mixes_tokens(call, self.width)]
        root = find_outermost(mixing)
        if root is None:
            raise self._build_error("a part that mixes tokens (attention)")
        return self._read_mixer(root, self.x)

    def read_cross_attention(self, attention: Contribution, stream: Tensor) -> Contribution | None:
        """What brings other states than the stream into a block: an encoder's, which the block is given beside it."""
        given = [rows for rows in self.block.inputs[1:] if rows.shape != self.x.shape]
        reading = [
            call
            for call in self.calls
            if not is_inside_any(call.path, (*attention.members, *attention.after))
            and any(is_same(rows, states) for rows in call.inputs for states in given)
            and call.output is not None
            and call.output.shape == self.x.shape
        ]
        root = find_outermost(reading)
        if root is None:
            return None
        cross = self._read_mixer(root, stream)
        return replace(cross, reads=cross.before or root.path)

    def _read_mixer(self, root: Call, stream: Tensor) -> Contribution:
        """The contribution of an attention, whose module is `root`, to the stream that it finds."""
        inside = [call for call in self.calls if is_within(call.path, root.path) and call is not root]
        closing = next((c for c in inside if is_norm(c.module) and is_same(c.output, root.output)), None)
        if closing is not None:  # the root adds the residual and norms it by itself, as in BERT
            wanted = closing.inputs[0] - stream
            writer = find_outermost([c for c in inside if has_matrix(c.module) and is_same(c.output, wanted)])
            if writer is None:
                raise self._build_error("what its attention adds to the residual stream")
            members = _find_cover(root.module, root.path, excluding=closing.path)
            forms = self._read_forms(members, writer.output)
            return Contribution(writer.path, members, forms, (), None, closing.path, "", self._find_projection(writer))
        feeding = (c for c in self.calls if is_norm(c.module) and is_same(c.output, root.inputs[0]))
        before = next((c.path for c in feeding if not is_same(c.output, stream)), None)  # no norm that closed a part
        adding = self._find_adding(root, inside, stream)
        if adding is not None:
            writer, form = adding
            return Contribution(writer.path, (root.path,), (form,), (), before, None, "", self._find_projection(writer))
        after = self._find_following(root, stream)
        added = stream + self._get_output(after[-1] if after else root.path)
        closes = next(
            (c.path for c in self.calls if is_norm(c.module) and c.inputs and is_same(c.inputs[0], added)), None
        )
        raw = before is None and any(is_norm(c.module) and is_same(c.output, self.y) for c in self.calls)
        closes = closes if raw else None
        projection = self._find_projection(root)
        form = Form(root.arity, listed=root.listed, passes=root.passes)
        return Contribution(root.path, (root.path,), (form,), after, before, closes, "", projection)

    def _find_adding(self, root: Call, inside: list[Call], stream: Tensor) -> tuple[Call, Form] | None:
        """What writes the contribution of an attention that adds itself to the stream, as BLOOM's does."""
        if root.output is None or root.output.shape != stream.shape:
            return None
        wanted = root.output - stream
        writer = find_outermost([c for c in inside if has_matrix(c.module) and is_same(c.output, wanted)])
        form = _read_form(root, wanted)
        return (writer, form) if writer is not None and form.stream is not None else None

    def read_after(self, stream: Tensor, attention: Contribution) -> Tensor:
        """The residual stream after an attention: x + a, or its norm in post-norm."""
        if attention.closes is not None:
            return self._get_output(attention.closes)
        return stream + self._get_output(attention.last)

    def read_mlp(self, mixers: tuple[Contribution, ...], residual: Tensor) -> tuple[Contribution, Layout]:
        """The MLP behind the attentions, which add what is left of the block, and the layout of the norms."""
        taken = tuple(path for mixer in mixers for path in (*mixer.members, *mixer.after))
        outside = [c for c in self.calls if not is_inside_any(c.path, taken)]
        if mixers[0].closes is not None:
            closing = next((c for c in outside if is_norm(c.module) and is_same(c.output, self.y)), None)
            if closing is None or closing.path in [mixer.closes for mixer in mixers]:
                raise self._build_error("a norm that closes the block, as its attention has one (post-norm)")
            contribution = closing.inputs[0] - residual
            closes = closing.path
        else:
            contribution, closes = self.y - residual, None
        writer, after = self._find_writer(outside, contribution)
        members = self._find_remaining(mixers, after, closes)
        first = next((c for c in self.every_call if is_inside_any(c.path, members) and c.inputs), None)
        fed = None if first is None else first.inputs[0]
        norms = [c for c in self.calls if is_norm(c.module) and is_same(c.output, fed)] if closes is None else []
        before = norms[0].path if norms else None
        if before is not None:
            members = tuple(path for path in members if path != before)
        forms = self._read_forms(members, self._get_output(after[-1] if after else writer.path))
        reads = before or ("" if first is None else first.path)
        projection = self._find_projection(writer)
        mlp = Contribution(writer.path, members, forms, after, before, closes, reads, projection)
        reads_x = before is not None and norms[0].inputs and is_same(norms[0].inputs[0], self.x)
        return mlp, self._read_layout((*mixers, mlp), bool(reads_x))

    def _find_projection(self, writer: Call) -> str | None:
        return find_projection(self.calls, writer)

    def _read_layout(self, parts: tuple[Contribution, ...], mlp_reads_x: bool) -> Layout:
        if parts[-1].closes is not None:
            return Layout.POST_NORM
        if mlp_reads_x:
            return Layout.PARALLEL
        after = [path for part in parts for path in part.after]
        norms = [path for path in after if is_norm(self.block.module.get_submodule(path))]
        return Layout.SANDWICH if norms else Layout.PRE_NORM

    def _find_following(self, root: Call, stream: Tensor) -> tuple[str, ...]:
        """Norms and scales that only pass on the root's output, in order."""
        path: list[str] = []
        value = root.output
        while True:
            step = next(
                (
                    c
                    for c in self.calls
                    if c.path not in path
                    and is_vector(c.module)
                    and c.inputs
                    and is_same(c.inputs[0], value)
                    and not is_within(c.path, root.path)
                ),
                None,
            )
            if step is None or value is None or is_same(stream + value, step.inputs[0]):
                return tuple(path)
            path.append(step.path)
            value = step.output

    def _find_writer(self, calls: list[Call], contribution: Tensor) -> tuple[Call, tuple[str, ...]]:
        """The module with matrices that writes `contribution`, behind any norms and scales that follow it."""
        after: list[str] = []
        value = contribution
        while True:
            writer = find_outermost([c for c in calls if has_matrix(c.module) and is_same(c.output, value)])
            if writer is not None:
                return writer, tuple(reversed(after))
            step = next((c for c in calls if is_vector(c.module) and is_same(c.output, value) and c.inputs), None)
            if step is None or step.path in after:
                raise self._build_error("what its MLP adds to the residual stream")
            after.append(step.path)
            value = step.inputs[0]

    def _find_remaining(
        self, mixers: tuple[Contribution, ...], after: tuple[str, ...], closes: str | None
    ) -> tuple[str, ...]:
        """The modules with matrices that belong to no other part: the MLP's."""
        others = [path for mixer in mixers for path in (*mixer.members, *mixer.after, mixer.closes)]
        taken = tuple(filter(None, (*others, *after, closes)))
        return find_free_members(self.block.module, [call.path for call in self.every_call], taken)

    def _read_forms(self, members: tuple[str, ...], contribution: Tensor | None) -> tuple[Form, ...]:
        """Of each member; one that returns the contribution and another input's sum adds itself to the stream."""
        calls = {call.path: call for call in self.every_call}
        return tuple(_read_form(calls[path], contribution) if path in calls else Form() for path in members)

    def _get_output(self, path: str) -> Tensor:
        return next(c.output for c in self.calls if c.path == path and c.output is not None)

    def _build_error(self, wanted: str, actual: str = "none") -> UnreadableModel:
        name = type(self.block.module).__name__
        return UnreadableModel(f"block {self.index} ({name}): looked for {wanted} and found {actual}")


def _read_form(call: Call, contribution: Tensor | None) -> Form:
    """`contribution` is what the member's unit adds, where it is the member that writes it."""
    if call.output is None or contribution is None or is_same(call.output, contribution):
        return Form(call.arity, listed=call.listed, passes=call.passes)
    for name, rows in zip(call.names, call.inputs, strict=True):
        if rows.shape == call.output.shape and is_same(call.output - rows, contribution):
            return Form(call.arity, name, listed=call.listed, passes=call.passes)
    return Form(call.arity, listed=call.listed, passes=call.passes)


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _find_cover(root: nn.Module, path: str, excluding: str) -> tuple[str, ...]:
    """The fewest sub-modules of `root` that together hold all its weights but those of one module."""
    if not holds_any(path, (excluding,)):
        return (path,) if any(True for _ in root.parameters()) else ()
    if path == excluding:
        return ()
    return tuple(
        path_below
        for name, child in root.named_children()
        for path_below in _find_cover(child, f"{path}.{name}", excluding)
    )
