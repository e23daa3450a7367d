"""The `llama-quantize` line that makes of the parent's file what the search found, where there is one.

That program removes whole blocks (`--prune-layers`), numbers those that are left anew, and then gives each tensor the
type of the first pattern that is found in its name; other versions take the last one, so no two patterns here fit one
tensor. Patterns count only where the type at the end of the line has few bits.
"""

import json
import shlex
from collections.abc import Iterable, Iterator

from nas.formats.gguf import FILE, GgufFormat
from nas.formats.gguf_types import PLAIN, TYPES
from nas.formats.source import Source
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.kinds import AFTER_BLOCKS, Kind
from search_spaces.unit import Choice, Unit, find_kind

PARENT_FILE = "parent.gguf"
QUANTIZE_NOTE = (
    "the line reads the parent's own file in float32 and rounds its weights anew; what compensation or healing changed "
    f"is in {FILE} alone"
)
_ARCHITECTURE = "architecture.json"  # beside a winner's weights
_TENSORS = {Kind.ATTENTION: "attn_(q|k|v|output)", Kind.MLP: "ffn_(gate|up|down)"}
_FEW = "Q8_0"  # any type of few bits: every tensor has a pattern of its own


def build_quantize_command(source: Source) -> str:
    """The line, for a shell.

    Raises:
        UsageError: the model is none that llama.cpp knows, nothing says what it lost, or a part of it is changed in a
            way that the program does not have.
    """
    refusal = GgufFormat().find_refusal(source)
    if refusal is not None:
        raise UsageError(f"--print-command: {refusal.words}")
    architecture = _read_architecture(source)
    removed = architecture.list_removed_blocks()
    others = [
        choice for choice in sorted(architecture.merge_blocks().choices)
        if choice.layer not in removed and _find_type(choice) is None
    ]  # fmt: skip
    if others:
        raise UsageError(
            f"--print-command: llama-quantize removes whole blocks and changes types of tensors, so no line makes "
            f"{', '.join(map(str, others))}; {FILE} has it, so leave the option out"
        )
    words = ["llama-quantize"]
    if removed:
        words += ["--prune-layers", ",".join(map(str, removed))]
    types = _list_types(architecture, removed)
    few = any(name != PLAIN.lower() for _, name in types)
    if few:
        words += [word for option in _list_options(types) for word in option]
    return shlex.join([*words, PARENT_FILE, FILE, _FEW if few else PLAIN])


def _read_architecture(source: Source) -> Architecture:
    path = source.folder / _ARCHITECTURE
    if path.is_file():
        return Architecture.from_json(json.loads(path.read_text()))
    if source.architecture is None:
        raise UsageError(f"--print-command: no {_ARCHITECTURE} in {source.folder} says which blocks were removed")
    return source.architecture


def _find_type(choice: Choice) -> str | None:
    """llama.cpp's type of a level, lower case; None where it is more than that."""
    axes = dict(choice.level.axes)
    if axes.keys() != {"bits"}:
        return None
    name = TYPES.get(find_kind(choice.kind, "bits").describe(axes["bits"]))
    return None if name is None else name.lower()


def _list_types(architecture: Architecture, removed: Iterable[int]) -> list[tuple[Unit, str]]:
    """Every part that is left, the head among them, with its type."""
    units = [Unit(layer, kind) for layer in range(architecture.depth) if layer not in removed for kind in _TENSORS]
    levels = {choice.unit: _find_type(choice) for choice in architecture.choices}
    return [(unit, levels.get(unit) or PLAIN.lower()) for unit in [*units, Unit(AFTER_BLOCKS, Kind.HEAD)]]


def _list_options(types: list[tuple[Unit, str]]) -> Iterator[tuple[str, str]]:
    """One for the tensors of each kind and type; blocks have the numbers that they get."""
    kept = list(dict.fromkeys(unit.layer for unit, _ in types if unit.kind.in_blocks))
    yield "--token-embedding-type", PLAIN.lower()
    yield "--output-tensor-type", next(name for unit, name in types if not unit.kind.in_blocks)
    groups: dict[tuple[Kind, str], list[int]] = {}
    for unit, name in types:
        if unit.kind.in_blocks:
            groups.setdefault((unit.kind, name), []).append(kept.index(unit.layer))
    for (kind, name), blocks in groups.items():
        numbers = "|".join(map(str, blocks))
        yield "--tensor-type", rf"blk\.({numbers})\.{_TENSORS[kind]}\.weight={name}"
