"""The code asks a kind of unit what it does and does not name it, so that a new kind needs no change elsewhere.

A module names a kind where it reads a member of `Kind` (`Kind.MLP`, `Kind["MLP"]`) or has a string that is, as a whole,
the name of a kind (`"mlp-width"`). The `kinds/` folders, in which each kind has its own file, are left out. Every other
file that names one is listed here, with the names and why; a name that is no longer there has to leave the list.
"""

import ast
from collections.abc import Iterator

import pytest
from test_imports import ROOT, files

from search_spaces import KINDS, Kind

ALLOWED = {  # file: (the kinds that it names, why)
    "latency_models/block_shape.py": (
        "attention cross-attention mlp",
        "a profile has the shapes of these parts",
    ),
    "nas/cli/analyze.py": ("block", "a heading of the table of similarities"),
    "nas/figures/search.py": ("attention block cross-attention mlp", "a colour for each kind that is drawn"),
    "nas/formats/decilm.py": ("attention", "a field of a block in the config of DeciLM"),
    "nas/formats/llama_layout.py": ("attention", "other programs need the first one"),
    "nas/formats/llama_quantize.py": ("attention head mlp", "which tensors of a file are of which part"),
    "nas/parent/block_shapes.py": ("attention cross-attention mlp", "reads what parts compute; each has its own form"),
    "nas/report/drawing.py": ("block cross-attention", "drawn where it is gone, as few models have one"),
    "nas/families/trials.py": ("block", "a removed block is compared with one that hands on its input"),
    "nas/search/knobs.py": ("attention", "a knob weighs attentions against the rest"),
    "nas/search/methods/__init__.py": ("attention block mlp", "published methods are defined for these kinds"),
    "nas/search/methods/evopress.py": ("attention mlp", "EvoPress drops as many attentions as MLPs"),
    "nas/search/methods/greedy.py": ("block", "SLEB drops blocks"),
    "nas/search/methods/one_shot.py": ("attention block", "the reverse order puts the MLP of a block first"),
    "nas/search/methods/window.py": ("block", "the window of Gromov et al. is of blocks"),
    "nas/search/unit_savings.py": ("attention cross-attention mlp", "names with an article, for a sentence"),
    "nas/testing.py": ("attention mlp", "the costs of the synthetic device"),
    "pruning/analysis/redundancy.py": ("attention block mlp", "reads the stream around what a block is made of"),
    "pruning/anatomy/anatomy.py": ("block", "a block of one part goes as a whole"),
    "pruning/anatomy/branch_reader.py": ("attention mlp", "what mixes tokens is attention, what comes behind is MLP"),
    "pruning/anatomy/contribution.py": ("attention cross-attention mlp", "reads which modules are the parts"),
    "pruning/anatomy/head.py": ("head", "reads which module is the head"),
    "pruning/anatomy/nature.py": ("attention mlp", "names for what parts do, of which two are called like kinds"),
    "pruning/anatomy/sum_reader.py": ("attention mlp", "what mixes tokens is attention, what else is added MLP"),
    "pruning/compensation/sites.py": ("attention", "the part that reads the stream as it enters a block"),
    "pruning/compensation/streams.py": ("attention", "the part that reads the stream as it enters a block"),
    "pruning/inference/kv_cache.py": ("attention cross-attention", "a cache has a layer for each attention"),
    "search_spaces/architecture.py": (
        "attention block cross-attention mlp tokens",
        "words and schedule of an architecture",
    ),
    "search_spaces/servable.py": ("attention block mlp", "what other engines can load is a rule about these parts"),
}
WORDS = {  # file: (strings that are the name of a kind and mean something else, what they mean)
    "nas/cli/analyze.py": ("tokens", "a picture's name"),
    "nas/cli/token.py": ("tokens", "access tokens of the service"),
    "nas/figures/__init__.py": ("tokens", "a module's name"),
    "nas/figures/tokens.py": ("tokens", "a label of an axis"),
    "nas/formats/hf.py": ("tokens", "a field of a question: how many follow"),
    "nas/formats/hf_program.py": ("tokens", "a field of a question: how many follow"),
    "nas/formats/report.py": ("tokens", "a field of a report: how many follow"),
    "nas/pipeline/dry_run.py": ("tokens", "a field of the plan"),
    "nas/pipeline/mlflow_run.py": ("tokens", "a parameter of a run: the schedule"),
    "nas/report/view.py": ("tokens", "a field of a result: the schedule"),
    "nas/results/model_card.py": ("tokens", "a field of a compensation's record: how many"),
    "nas/results/result.py": ("tokens", "a field of a result: the schedule"),
    "nas/search/knobs.py": ("tokens", "a knob that weighs schedules against parts"),
    "pruning/analysis/redundancy.py": ("tokens", "a field of a report: how many were compared"),
    "pruning/analysis/traversal_state.py": ("block", "a field of a file: with which block work goes on"),
    "pruning/analysis/token_redundancy.py": ("tokens", "a field of a report: how many were compared"),
    "pruning/compensation/candidate_builder.py": ("tokens", "a field of a record: how many"),
    "pruning/inference/block_stand_in.py": ("block", "an attribute of a module"),
}


def named_kinds(source: str) -> Iterator[str]:
    """The kinds that a module names, as often as it does."""
    tree = ast.parse(source)
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    enums = {"Kind", *(alias.asname for alias in imports if alias.name == "Kind" and alias.asname)}
    members = Kind.__members__
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in KINDS:
            yield str(node.value)
        elif isinstance(node, ast.Attribute) and node.attr in members and _last_name(node.value) in enums:
            yield members[node.attr]
        elif isinstance(node, ast.Subscript) and _last_name(node.value) in enums:
            yield from (members[key.value] for key in [node.slice] if isinstance(key, ast.Constant))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def expected(file: str) -> set[str]:
    """The names that the lists above allow a file."""
    return {name for names in (ALLOWED, WORDS) if file in names for name in names[file][0].split()}


FILES = {path.relative_to(ROOT).as_posix(): path for path in files().values() if path.parent.name != "kinds"}


def test_kinds_are_named_in_the_listed_files_only_and_the_lists_have_no_others() -> None:
    named = {file: set(named_kinds(path.read_text())) for file, path in FILES.items()}
    assert {file: names for file, names in named.items() if names} == {
        file: expected(file) for file in sorted(ALLOWED.keys() | WORDS.keys())
    }


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("Kind.MLP", ["mlp"]),
        ("kinds.Kind.MLP", ["mlp"]),
        ("from search_spaces import Kind as K\nK.BLOCK", ["block"]),
        ('Kind["TOKENS"]', ["tokens"]),
        ('unit.kind == "mlp-width"', ["mlp-width"]),
        ('match kind:\n    case Kind.ATTENTION | "block": pass', ["attention", "block"]),
        ('for kind in PARTS: print(f"{kind}", "the mlp")', []),
        ("Colour.BLOCK", []),
    ],
)
def test_a_kind_is_named_by_a_member_or_by_a_string(source: str, names: list[str]) -> None:
    assert sorted(named_kinds(source)) == names
