"""Reading a block by its branches: modules without which it is left with nothing but norms and scales of its input.

`contribution.read_block` knows the usual layouts, and `sum_reader` whatever adds up. This reads blocks in which the
stream is normed before it is added to (MiniMax), in which a part mixes tokens without weights (FNet), or that put
adapters behind the sum (X-MOD). A module is a branch where what it writes no longer depends on its input once the
modules with matrices inside it write zeros; where it still does, it hands on the stream, and its branches lie inside.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.contribution import BlockAnatomy, Contribution, Layout
from pruning.anatomy.probe import BlockTrace, Call, flatten_to_rows, mixes_tokens, run_or_refuse
from pruning.anatomy.roles import find_free_members, has_matrix, is_inside_any, is_norm, is_same, is_within
from pruning.surgery.dropped import Form
from search_spaces.errors import UnreadableModel
from search_spaces.kinds import Kind


@torch.no_grad()
def read_branches(index: int, tape: BlockTrace, width: int) -> BlockAnatomy:
    """Read one block from its tape.

    Raises:
        UnreadableModel: what is no branch has matrices of its own, or nothing mixes tokens.
    """
    return _BranchReader(index, tape, width).read()


@torch.no_grad()
def read_whole(index: int, tape: BlockTrace, width: int, reason: str) -> BlockAnatomy:
    """A block that can only go as a whole: what it hands on has the form of its input.

    Args:
        reason: why its parts were not read.
    """
    block = tape.block
    kind = Kind.ATTENTION if mixes_tokens(block, width) else Kind.MLP
    form = Form(block.arity, listed=block.listed, passes=block.passes)
    whole = Contribution("", ("",), (form,), (), None, None)
    return BlockAnatomy(index, Layout.MIXED, width, {kind: whole}, unparted=reason)


class _BranchReader:
    def __init__(self, index: int, tape: BlockTrace, width: int) -> None:
        self.index, self.width, self.block = index, width, tape.block
        self.calls = tape.list_inner_calls()
        self.x = self.block.inputs[0]

    def read(self) -> BlockAnatomy:
        """Group the branches into what mixes tokens and what comes behind."""
        outermost = self._list_outermost("")
        groups = {call.path: list(self._find_branches(call)) for call in outermost if self._writes_stream(call)}
        groups = {path: branches for path, branches in groups.items() if branches}
        mixing = [path for path, branches in groups.items() if any(mixes_tokens(b, self.width) for b in branches)]
        if not mixing:
            raise self._build_error("a branch that mixes tokens")
        order = list(groups)
        first = order.index(mixing[0])
        end = first + 1
        while end < len(order) and self._follows(groups[order[end]], groups[order[end - 1]]):
            end += 1
        taken = {Kind.ATTENTION: order[:end], Kind.MLP: order[end:]}
        branches = {kind: [b for path in paths for b in groups[path]] for kind, paths in taken.items() if paths}
        held = {kind: [branch.path for branch in each] for kind, each in branches.items()}
        for path in find_free_members(
            self.block.module, [c.path for c in self.calls], [p for e in held.values() for p in e]
        ):
            held[self._find_owner(path, taken, held)].append(path)
        parts = {kind: self._describe(branches[kind], held[kind]) for kind in branches}
        return BlockAnatomy(self.index, Layout.MIXED, self.width, parts)

    def _list_outermost(self, root: str) -> list[Call]:
        """The calls inside a module that lie in no other one's."""
        inside = [call for call in self.calls if call.path != root and (not root or is_within(call.path, root))]
        paths = {call.path for call in inside}
        return [c for c in inside if not any(c.path != other and is_within(c.path, other) for other in paths)]

    def _writes_stream(self, call: Call) -> bool:
        return call.output is not None and call.output.shape == self.x.shape

    def _find_branches(self, call: Call) -> Iterator[Call]:
        """The branches in a module whose output has the form of the stream."""
        if not has_matrix(call.module) and not mixes_tokens(call, self.width):
            return
        inside = self._list_outermost(call.path)
        if not any(True for _ in call.module.children()) or not self._hands_on(call):
            if sum(other.path == call.path for other in self.calls) == 1:
                yield call
            elif has_matrix(call.module):
                raise self._build_error(f"branches that run once each, unlike {call.path}")
            return
        if any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False)) or not inside:
            raise self._build_error(f"the branches of {call.path}, which hands on the stream and has matrices itself")
        for each in inside:
            if self._writes_stream(each):
                yield from self._find_branches(each)

    def _hands_on(self, call: Call) -> bool:
        """Whether what a module writes depends on its input although its modules with matrices write zeros."""
        with ExitStack() as hooks:
            for module in call.module.modules():
                if module is not call.module and any(p.ndim > 1 for p in module.parameters(recurse=False)):
                    hooks.callback(module.register_forward_hook(_write_zeros).remove)
            before, after = (
                _get_first(run_or_refuse(call.module, *args, **kwargs))
                for args, kwargs in ((call.args, call.kwargs), _scramble(call, self.width))
            )
        return not is_same(before, after)

    def _follows(self, branches: Sequence[Call], others: Sequence[Call]) -> bool:
        """Whether branches are given what others write, and nothing is added in between."""
        return any(is_same(rows, other.output) for b in branches for rows in b.inputs for other in others)

    def _find_owner(self, path: str, taken: dict[Kind, list[str]], held: dict[Kind, list[str]]) -> Kind:
        """The part that a module belongs to which writes no stream: the one in whose group it is, else the next."""
        order = [call.path for call in self.calls]
        at = next(place for place, each in enumerate(order) if is_within(each, path))
        for kind, groups in taken.items():
            if kind in held and is_inside_any(path, groups):
                return kind
        later = (kind for each in order[at:] for kind, paths in held.items() if each in paths)
        return next(later, list(held)[-1])

    def _describe(self, branches: Sequence[Call], held: Collection[str]) -> Contribution:
        """One unit of these branches and of what serves them."""
        forms = {c.path: Form(c.arity, listed=c.listed, passes=c.passes) for c in self.calls}
        members = tuple(sorted(held, key=[path for call in self.calls for path in _list_holders(call)].index))
        first = next(call for call in self.calls if is_inside_any(call.path, members))
        feeding = (
            c for c in self.calls
            if is_norm(c.module) and first.inputs and is_same(c.output, first.inputs[0])
        )  # fmt: skip
        before = next((c.path for c in feeding if not is_inside_any(c.path, members)), None)
        *beside, last = [branch.path for branch in branches]
        return Contribution(
            writes=last,
            members=members,
            forms=tuple(forms.get(path, Form()) for path in members),
            after=(),
            before=before,
            closes=None,
            reads=before or first.path,
            beside=tuple(beside),
            scaled=True,
        )

    def _build_error(self, wanted: str) -> UnreadableModel:
        name = type(self.block.module).__name__
        return UnreadableModel(f"block {self.index} ({name}): looked for {wanted} and found none")


def _list_holders(call: Call) -> list[str]:
    """The path of a call's module, and of all that hold it within the block."""
    names = call.path.split(".")
    return [".".join(names[:end]) for end in range(len(names), 0, -1)]


def _write_zeros(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output) if output.is_floating_point() else output
    if isinstance(output, tuple | list):
        values = [_write_zeros(module, args, each) for each in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)  # named tuples have these
    return output


def _scramble(call: Call, width: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with other numbers in those that have the stream's width."""

    def change(value: Any) -> Any:
        return value.flip(-1) * 1.5 + 1 if flatten_to_rows(value, width) is not None else value

    return tuple(change(value) for value in call.args), {name: change(value) for name, value in call.kwargs.items()}


def _get_first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output
