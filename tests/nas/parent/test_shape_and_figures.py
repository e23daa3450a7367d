"""Shapes account for the parameters of every family; pictures and pages are drawn from what they are given."""

from pathlib import Path

import pytest
from families import FAMILIES, build

from nas.figures.search import Point, draw_pareto, draw_redundancy, write_pareto_page
from nas.parent.shape import read_shape
from pruning.analysis.redundancy import Redundancy
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Kind, Unit


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_accounts_for_the_matrices(family: str) -> None:
    model = build(family)
    anatomy = read_anatomy(model)
    shape = read_shape(model, anatomy)
    block = anatomy.count_parameters(Unit(0, Kind.BLOCK))
    implied = shape.attention_weights + shape.experts * shape.expert_weights
    assert implied == pytest.approx(block, rel=0.06)  # the rest are biases, norms and a router
    blocks = sum(anatomy.count_parameters(Unit(layer, Kind.BLOCK)) for layer in range(4))
    assert shape.stem + blocks == model.num_parameters()
    if family in ("gemma2", "gemma3"):
        assert shape.window == (8, None, 8, None)
    if family in ("vit", "clip", "dinov2"):
        assert shape.tokens == 10  # 3 x 3 patches and the class token
    if family == "siglip":
        assert shape.tokens == 9
    if family == "llama":
        assert (shape.outputs, shape.head_per_token, shape.causal) == (96, True, True)


def test_pictures_and_page(tmp_path: Path) -> None:
    points = [Point(10 + i, 0.1 * i + 0.05, f"trial {i}", "attn+mlp <b>", i < 4) for i in range(8)]
    named = {"winner": points[3], "parent": Point(20.0, 0.0, "parent", "attn+mlp", False)}
    labels = {"latency_label": "p90, ms", "loss_label": "KL", "title": "a <title>"}
    draw_pareto(points, named, 14.0, tmp_path / "pareto.png", **labels)
    write_pareto_page(points, named, 14.0, tmp_path / "pareto.html", **labels)
    page = (tmp_path / "pareto.html").read_text()
    assert page.count("<circle") == 10
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page
    redundancy = Redundancy("llama", "pre_norm", 9, (0.9, 1.0), (0.8, 0.7), (0.5, 0.4), ((1.0, 0.5, 0.2),) * 3)
    draw_redundancy(redundancy, tmp_path / "redundancy.png", "model")
    for name in ("pareto.png", "redundancy.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
