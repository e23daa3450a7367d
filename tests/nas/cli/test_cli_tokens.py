"""`nas search --tokens` as a person types it: from the request to a folder that loads with fewer tokens."""

import json
from pathlib import Path

import pytest
import torch
from command_line import nas
from families import example
from small_search import make, search_arguments
from test_cli import tiny  # noqa: F401  (a fixture)

from pruning.checkpoint import load, load_parent
from pruning.surgery.prune import prune
from search_spaces import Architecture

LARGE = ("--target", "jetson-orin", "--workload", "forward:batch=8192,seq=10")  # where arithmetic is what takes time


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--tokens", "some"), "tokens 'some' is none of off, search, pyramiddrop"),
        (("--tokens", "pyramiddrop:9=0.5"), "there is no block 9"),
        (("--tokens", "fastv:2=1.5"), "outside (0, 1]"),
        (("--tokens", "search", "--servable", "vanilla"), "other engines drop no tokens"),
        (("--units", "none"), "--units none leaves nothing to search"),
        (("--method", "fastv"), "--method fastv drops tokens; add --tokens search"),
        (("--tokens", "search", "--method", "fastv+add-back"), "method 'fastv+add-back' is none of nas"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(more: tuple[str, ...], says: str, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    done = nas(*search_arguments(tiny, tmp_path / "out", *LARGE, "--budget", "0.8x", "--dry-run", *more))
    assert done.returncode == 2
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_plan_says_what_is_searched(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = search_arguments(tiny, tmp_path / "out", *LARGE, "--budget", "0.8x", "--dry-run", "--json")
    plans = {}
    for tokens in ("off", "search", "pyramiddrop:1=0.5"):
        done = nas(*arguments, "--tokens", tokens)
        assert done.returncode == 0, done.stderr
        plans[tokens] = json.loads(done.stdout)
    assert plans["off"]["architectures"] == 2**8
    assert plans["search"]["units"] == 8 + 3 * 5
    assert plans["search"]["architectures"] == 2**8 * 56
    assert plans["search"]["tokens"] == "search: stages before 3 blocks that keep 0.125, 0.25, 0.35, 0.5, 0.75"
    assert plans["pyramiddrop:1=0.5"]["tokens"].startswith("from block 1 on half (4) of the 9 image tokens")
    assert plans["pyramiddrop:1=0.5"]["parent_ms"] == plans["off"]["parent_ms"]


def test_tokens_alone_from_the_request_to_a_model_that_loads(tmp_path: Path) -> None:
    """Of two blocks: each schedule is exported."""
    made, out = make(tmp_path / "made", blocks=2), tmp_path / "out"
    more = ("--budget", "0.8x", "--units", "none", "--tokens", "search", "--trials", "4", "--json")
    done = nas(*search_arguments(made, out, *LARGE, *more, "--compensate", "off"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    winner = Architecture.from_json(result["winner"]["architecture"])
    assert winner.tokens.stages
    assert not winner.structure.choices
    assert result["winner"]["predicted_ms"] <= result["budget_ms"]
    assert result["winner"]["tokens"] in (out / "winner" / "README.md").read_text()
    assert "of the 9 image tokens" in result["winner"]["tokens"]
    assert {unit["unit"].split(".")[0] for unit in result["units"]} == {"tokens"}
    found, parent = load(out / "winner"), load_parent(str(made / "model"))
    inputs = example(parent)
    with torch.no_grad():
        wanted = prune(parent, winner)(**inputs).logits
        assert torch.allclose(found(**inputs).logits, wanted, atol=1e-5)
        assert not torch.allclose(parent(**inputs).logits, wanted, atol=1e-5)
