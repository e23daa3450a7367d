"""Workloads and the positions a model has: a default that fits, and a refusal before anything is searched."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from families import build

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.certification.run import CertificationRun
from nas.export.onnx_export import make_workload_inputs
from nas.parent.shape import read_shape
from nas.pipeline.prepare import say_what_fits
from nas.profiling.choose_workload import choose_default_workload, choose_workload, fit_workload
from pruning.anatomy.anatomy import read_anatomy
from search_spaces.errors import BadWorkload

TARGETS = ("host", "jetson-orin")


def build_parent(family: str) -> SimpleNamespace:
    model = build(family)
    return SimpleNamespace(id=family, model=model, shape=read_shape(model, read_anatomy(model)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", ["gpt2", "opt", "bert", "llama", "vit"])
def test_a_default_workload_fits_the_positions(family: str, target: str) -> None:
    """All have 64 where the usual workload takes up to 1024 tokens; an image has as many as it has."""
    parent = build_parent(family)
    chosen = choose_default_workload(parent, find_target(target))
    usual = parent.shape.choose_default_workload(small=target == "host")
    assert chosen == usual if family == "vit" else chosen == replace(usual, sequence=64)
    inputs = make_workload_inputs(parent.model, replace(chosen, batch=1))
    assert all(len(array) == 1 for array in inputs.values())


@pytest.mark.parametrize(("family", "message"), [("gpt2", ["more than the 64 positions of gpt2"]), ("vit", [])])
def test_a_default_that_had_to_be_shortened_is_said(family: str, message: list[str]) -> None:
    parent, target, reported = build_parent(family), find_target("jetson-orin"), []
    progress = SimpleNamespace(show_message=reported.append)
    workload = choose_default_workload(parent, target)
    say_what_fits(SimpleNamespace(workload=None), parent, target, workload, progress)
    assert len(reported) == len(message)
    assert all(part in line for part, line in zip(message, reported, strict=True))
    say_what_fits(SimpleNamespace(workload=workload), parent, target, workload, progress)
    assert len(reported) == len(message)  # what was asked for needs no word


def test_roberta_loses_a_position_to_its_padding() -> None:
    assert choose_default_workload(build_parent("roberta"), find_target("host")).sequence == 63


def test_a_past_and_the_new_token_fit_together() -> None:
    assert str(fit_workload(build("gpt2"), Workload.parse("decode:batch=2,past=512"))) == "decode:batch=2,past=63"
    assert str(fit_workload(build("gpt2"), Workload.parse("decode:batch=2,past=63"))) == "decode:batch=2,past=63"


@pytest.mark.parametrize(
    ("family", "asked", "instead"),
    [
        ("gpt2", "forward:batch=1,seq=65", "forward:batch=1,seq=64"),
        ("gpt2", "decode:batch=1,past=64", "decode:batch=1,past=63"),
        ("opt", "prefill:batch=1,seq=128", "prefill:batch=1,seq=64"),
        ("bert", "forward:batch=4,seq=512", "forward:batch=4,seq=64"),
    ],
)
def test_an_asked_workload_that_a_model_has_no_positions_for_is_refused(family: str, asked: str, instead: str) -> None:
    parent, target = build_parent(family), find_target("jetson-orin")
    with pytest.raises(BadWorkload, match=f"{family} has 64; write for example {instead}"):
        choose_workload(parent, target, Workload.parse(asked))
    assert choose_workload(parent, target, Workload.parse(instead)) == Workload.parse(instead)


def test_rotary_positions_do_not_end() -> None:
    asked = Workload.parse("forward:batch=1,seq=512")
    assert choose_workload(build_parent("llama"), find_target("host"), asked) == asked


@pytest.mark.parametrize("asked", ["forward:batch=1,seq=64", "prefill:batch=1,seq=32", "decode:batch=1,past=8"])
def test_what_this_machine_compares_for_a_target_that_is_far_away_fits_too(asked: str, tmp_path: Path) -> None:
    context = SimpleNamespace(parent=build_parent("gpt2"), workload=Workload.parse(asked))
    small = CertificationRun(context, None)._choose_small_workload()
    assert small.past + small.sequence <= 64


@pytest.mark.parametrize("asked", ["prefill:batch=1,seq=8", "decode:batch=1,past=8"])
def test_a_phase_that_a_model_has_not_is_wrong_use(asked: str) -> None:
    with pytest.raises(BadWorkload, match=r"has no phase.*use forward"):
        choose_workload(build_parent("bert"), find_target("host"), Workload.parse(asked))
