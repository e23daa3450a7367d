"""Reading a block as a sum: what it hands on is its input and what some of its modules write, each times a constant.

`contribution.read_block` knows the usual layouts, in which one attention and one MLP are added as they are. This reads
what is put together in another way: parts that are scaled before they are added (Granite's multiplier, the layer scale
of image transformers), several that are added side by side, one part alone, and streams that a block scales as a whole.
For every channel the block's output is fitted by least squares to its input and to what its modules write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pruning.anatomy.contribution import BlockAnatomy, Contribution, Layout, find_projection
from pruning.anatomy.fitting import fit_sum
from pruning.anatomy.probe import BlockTrace, Call, mixes_tokens
from pruning.anatomy.roles import (
    find_free_members,
    find_outermost,
    is_inside_any,
    is_norm,
    is_same,
    is_vector,
    is_within,
)
from pruning.surgery.dropped import Form
from search_spaces.errors import UnreadableModel
from search_spaces.kinds import Kind

SAME = 1e-4  # relative; factors are fitted to values in float32
NESTING = 3  # how deep inside a block its parts may be


@dataclass(frozen=True)
class _Term:
    """One summand of what a block adds: what wrote it, the norms and scales behind, and the number it is multiplied by.

    `factor` is None where it is a parameter, of which `scale` is the name then, differs by channel in another way, or
    the stream that it is added to is scaled as well.
    """

    last: str
    writers: tuple[Call, ...]
    after: tuple[str, ...]
    mixes: bool
    reads_input: bool
    factor: float | None
    scale: str = ""


def read_sum(index: int, tape: BlockTrace, width: int) -> BlockAnatomy:
    """Read one block from its tape.

    Raises:
        UnreadableModel: its output is no such sum.
    """
    return _SumReader(index, tape, width).read()


class _SumReader:
    def __init__(self, index: int, tape: BlockTrace, width: int) -> None:
        self.index, self.width, self.block = index, width, tape.block
        self.every_call = tape.list_inner_calls()
        assert self.block.output is not None, "what does not write the stream was refused before"
        self.x, self.y = self.block.inputs[0], self.block.output
        self.calls = [call for call in self.every_call if call.output is not None and call.output.shape == self.x.shape]

    def read(self) -> BlockAnatomy:
        """Group what is added by what it does."""
        terms = self._find_terms()
        attention = [term for term in terms if term.mixes and term.reads_input]
        mlp = [term for term in terms if term not in attention]
        taken = {Kind.ATTENTION: attention, Kind.MLP: mlp}
        groups = {kind: each for kind, each in taken.items() if each}
        left = self._assign_left_over(terms, groups)
        parts = {kind: self._describe(each, left[kind]) for kind, each in groups.items()}
        parallel = bool(attention) and bool(mlp) and all(term.reads_input for term in mlp)
        normed = any(is_norm(self.block.module.get_submodule(path)) for part in parts.values() for path in part.after)
        layout = Layout.PARALLEL if parallel else Layout.SANDWICH if normed else Layout.PRE_NORM
        if parallel:  # what is beside a part is compared as it is written
            parts = {kind: replace(part, projection=None) for kind, part in parts.items()}
        return BlockAnatomy(self.index, layout, self.width, parts)

    def _find_terms(self) -> list[_Term]:
        for nesting in range(NESTING):
            candidates = self._list_candidates(nesting)
            factors = fit_sum(self.y, [self.x, *(_get(call) for call in candidates)])
            if factors is not None and factors[0] is not None:
                whole = self._read_number(factors[0]) == 1.0
                found = [
                    self._trace(call, factor if whole else None)
                    for call, factor in zip(candidates, factors[1:], strict=True)
                    if factor is not None
                ]
                if found:
                    return found
        raise UnreadableModel(
            f"block {self.index} ({type(self.block.module).__name__}): looked for parts whose sum with its input "
            "is what it hands on, and found none"
        )

    def _list_candidates(self, nesting: int) -> list[Call]:
        """Modules so deep in the block, or less deep with none inside; of those that write multiples of the same, one.

        Of two that write the same, the first is taken; of multiples the last, which has the scale. Modules that run
        more than once, and those that have no weights and mix no tokens, such as dropout, write nothing of their own.
        """
        near = [call for call in self.calls if call.path.count(".") <= nesting and self._writes(call)]
        near = [call for call in near if call.path.count(".") == nesting or not self._holds_others(call)]
        kept: list[Call] = []
        for call in near:
            if is_same(call.output, self.x) or any(is_same(call.output, other.output) for other in kept):
                continue
            kept = [other for other in kept if fit_sum(_get(call), [_get(other)]) is None or not is_vector(call.module)]
            kept.append(call)
        return kept

    def _writes(self, call: Call) -> bool:
        once = sum(other.path == call.path for other in self.every_call) == 1
        return once and (any(True for _ in call.module.parameters()) or mixes_tokens(call, self.width))

    def _holds_others(self, call: Call) -> bool:
        return any(other is not call and is_within(other.path, call.path) for other in self.calls)

    def _read_number(self, factors: Tensor) -> float | None:
        """The one number that the factors (hidden) of all channels are; None for others, and for a parameter's value.

        The block was traced with random parameters, so such a value is not the model's.
        """
        number = float(factors.mean())
        number = round(number) if abs(number - round(number)) <= SAME * abs(number) else number
        if float((factors - number).abs().max()) > SAME * abs(number):
            return None
        single = (float(p) for p in self.block.module.parameters() if p.numel() == 1)
        return None if any(abs(value - number) <= SAME * abs(number) for value in single) else float(number)

    def _find_scale(self, factors: Tensor) -> str:
        """The name of the block's own parameter that the factors (hidden) of all channels are; "" for none."""
        own = ((name, p.detach().flatten()) for name, p in self.block.module.named_parameters(recurse=False))
        sized = ((name, values) for name, values in own if len(values) in (1, self.width))
        close = (name for name, each in sized if float((factors - each).abs().max()) <= SAME * float(each.abs().max()))
        return next(close, "")

    def _trace(self, call: Call, factors: Tensor | None) -> _Term:
        """What wrote the value that a module hands on, multiplied by these factors (hidden); None for unknown ones."""
        factor = None if factors is None else self._read_number(factors)
        scale = self._find_scale(factors) if factors is not None and factor is None else ""
        writers, after = self._find_writers(call)
        mixes = any(mixes_tokens(writer, self.width) for writer in writers)
        reads_input = any(self._reads_input(writer) for writer in writers)
        return _Term(call.path, writers, after, mixes, reads_input, factor, scale)

    def _find_writers(self, call: Call) -> tuple[tuple[Call, ...], tuple[str, ...]]:
        """(modules with weights that write it, norms and scales behind them in the order in which they run)."""
        if not is_vector(call.module) or not call.inputs:
            return (call,), ()
        before = self.calls[: self.calls.index(call)]
        source = find_outermost([each for each in before if is_same(each.output, call.inputs[0])])
        sources = [source] if source is not None else self._split(call.inputs[0], before)
        found = [self._find_writers(each) for each in sources]
        writers = tuple(writer for each, _ in found for writer in each)
        return writers, (*(path for _, after in found for path in after), call.path)

    def _split(self, value: Tensor, calls: Sequence[Call]) -> list[Call]:
        """The modules whose sum a norm is given."""
        outer = [call for call in calls if "." not in call.path and not is_same(call.output, self.x)]
        factors = fit_sum(value, [_get(call) for call in outer])
        if factors is None:
            raise UnreadableModel(
                f"block {self.index} ({type(self.block.module).__name__}): looked for what wrote the input of a norm "
                "behind one of its parts and found nothing"
            )
        return [call for call, factor in zip(outer, factors, strict=True) if factor is not None]

    def _reads_input(self, writer: Call) -> bool:
        """Whether a part works on the block's input, and not on what another part added to.

        Its input is the block's, or was there before any part was done, or is a norm of the block's input.
        """
        given = next((rows for rows in writer.inputs if rows.shape == self.x.shape), None)
        if given is None or is_same(given, self.x):
            return given is not None
        first = next(at for at, call in enumerate(self.calls) if mixes_tokens(call, self.width) or call is writer)
        before = self.calls[:first]
        norms = (call for call in self.calls if is_norm(call.module) and call.inputs)
        normed = (call for call in norms if is_same(call.inputs[0], self.x))
        return any(is_same(call.output, given) for call in (*before, *normed))

    def _assign_left_over(
        self, terms: Sequence[_Term], groups: Mapping[Kind, Sequence[_Term]]
    ) -> dict[Kind, tuple[str, ...]]:
        """Modules with matrices that no part holds, by the part that they serve.

        They go with the only part that is given what they write, else with the last one, as the router of a mixture.
        What several parts are given goes with none.
        """
        taken = [path for term in terms for path in (*(w.path for w in term.writers), *term.after)]
        found: dict[Kind, tuple[str, ...]] = dict.fromkeys(groups, ())
        for path in find_free_members(self.block.module, [call.path for call in self.every_call], taken):
            written = next((call.output for call in self.calls if call.path == path), None)
            readers = [
                kind for kind, group in groups.items()
                if any(is_same(rows, written) for term in group for w in term.writers for rows in w.inputs)
            ]  # fmt: skip
            if len(readers) < len(groups) or len(groups) == 1:
                owner = readers[0] if readers else list(groups)[-1]
                found[owner] = (*found[owner], path)
        return found

    def _describe(self, terms: Sequence[_Term], left: tuple[str, ...]) -> Contribution:
        """One unit of everything that is added in one place."""
        held = (*(writer.path for term in terms for writer in term.writers), *left)
        order = {path: at for at, call in reversed(list(enumerate(self.every_call))) for path in _list_holders(call)}
        members = tuple(sorted(held, key=order.__getitem__))
        forms = {call.path: Form(call.arity, listed=call.listed) for call in self.every_call}
        last = terms[-1]
        first = next((call for call in self.every_call if is_inside_any(call.path, members) and call.inputs), None)
        norms = (
            call for call in self.calls
            if first is not None and is_norm(call.module) and is_same(call.output, first.inputs[0])
            and not is_inside_any(call.path, (*members, *last.after))
        )  # fmt: skip
        before = next((call.path for call in norms), None)
        known = last.factor is not None or last.scale
        alone = bool(known) and len(terms) == len(last.writers) == 1
        return Contribution(
            writes=last.writers[-1].path,
            members=members,
            forms=tuple(forms.get(path, Form()) for path in members),
            after=tuple(path for term in terms for path in term.after),
            before=before,
            closes=None,
            reads=before or (members[0] if first is None else first.path),
            projection=find_projection(self.every_call, last.writers[0]) if alone else None,
            beside=tuple(term.last for term in terms[:-1]),
            scaled=True,
            factor=last.factor if alone and last.factor is not None else 1.0,
            scale=last.scale if alone else "",
        )


def _list_holders(call: Call) -> list[str]:
    """The path of a call's module, and of all that hold it within the block."""
    names = call.path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names) + 1)]


def _get(call: Call) -> Tensor:
    assert call.output is not None, "candidates have an output"
    return call.output
