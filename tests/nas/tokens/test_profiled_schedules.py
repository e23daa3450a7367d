"""`nas profile --tokens`: the design covers the schedules that a search with the same words asks about."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import tiny  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from latency_models.calibrated import CalibratedModel
from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.runtime_ort import count_default_threads, read_environment
from latency_models.targets import HOST, find_target
from latency_models.workload import Workload
from nas.cli.app import app
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.pipeline.prepare import prepare
from nas.profiling.host import plan_measurements
from nas.profiling.host_profile import get_profile_path
from nas.profiling.latency_model import load_latency_model
from nas.progress import Silent
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.tokens.profiled_schedules import choose_profiled
from nas.tokens.space import choose_default_reduction
from search_spaces import Architecture, Kind, Reduction, Scorer
from search_spaces.errors import UsageError

WORKLOAD = Workload.parse("forward:batch=4,seq=10")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Spaces of the profiles that are measured: in no time, each as long as its row of work. By norm is quickest."""
    asked: list[Any] = []

    def profile(parent: Any, graphs: Any, workload: Workload, effort: Any, *, space: Any, **more: Any) -> Profile:
        asked.append(space)
        chosen = plan_measurements(parent.shape, workload, space)
        times = [4.0 - 0.3 * len(a.structure.choices) - 0.1 * len(a.tokens.stages) for a in chosen]
        records = tuple(
            Record(a, Measurement((ms,) * 20, workload, (4.0,) * 20)) for a, ms in zip(chosen, times, strict=True)
        )
        return Profile(read_environment(count_default_threads()), parent.digest, parent.shape, workload, records)

    def looked(parent: Any, export: Any, workload: Workload, architectures: list[Architecture]) -> list[float]:
        return [
            4.0 if not a.tokens.stages else 1.0 if a.reduction.scorer is Scorer.NORM else 3.9 for a in architectures
        ]

    monkeypatch.setattr("nas.profiling.host_profile.profile_host", profile)
    monkeypatch.setattr("nas.tokens.profiled_schedules.measure_ms", looked)
    monkeypatch.setattr(ParentExport, "graphs", None)
    return asked


def profile(tiny: Path, out: Path, *more: str) -> Any:  # noqa: F811
    arguments = ("profile", "--model", str(tiny / "model"), "--workload", str(WORKLOAD), "--out", str(out), *more)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("tokens", ["search", "fastv:2=0.5", "off"])
def test_a_search_with_the_same_words_finds_its_profile(
    tokens: str,
    measured: list[Any],
    tiny: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = profile(tiny, tmp_path / "out", "--data", str(tiny / "data"), "--tokens", tokens, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["schedules"] != []) == (tokens != "off")
    request = SearchRequest(
        HOST, Budget.parse("0.6x"), tmp_path / "search", model=str(tiny / "model"), data=tiny / "data",
        workload=WORKLOAD, tokens=tokens,
    )  # fmt: skip
    context = prepare(request, Silent())
    assert len(measured) == 1, "it was measured again"
    assert isinstance(context.latency, CalibratedModel)
    assert context.latency.terms.tokens == (tokens != "off")
    if tokens == "search":  # chosen as the search does
        assert measured[0].reduction.scorer is context.space.reduction.scorer is Scorer.NORM
    if tokens == "fastv:2=0.5":
        assert document["schedules"] == ["2=0.5"]


def test_without_data_the_usual_strategy_is_measured(measured: list[Any], tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    done = profile(tiny, tmp_path / "out", "--tokens", "search")
    assert done.exit_code == 0, done.output
    assert "no data to compare strategies by" in done.stderr
    parent = load_parent_model(str(tiny / "model"))
    assert measured[0].reduction == choose_default_reduction(parent)
    assert "tokens      " in done.stdout
    assert get_profile_path(parent, WORKLOAD, measured[0]).exists()


def test_a_decoder_is_measured_where_it_reads_a_prompt() -> None:
    parent = load_parent_model("python-lm")
    target = find_target(HOST)
    workload, space = choose_profiled(parent, target, None, "pyramiddrop:4=0.5", Silent())
    assert workload.phase == "prefill"
    assert space is not None
    assert space.fixed is not None
    assert {unit.kind for unit in space.choices} == {Kind.ATTENTION, Kind.MLP}
    with pytest.raises(UsageError, match="drops tokens where it reads a prompt"):
        choose_profiled(parent, target, Workload.parse("forward:batch=1,seq=64"), "search", Silent())


def test_a_kit_is_made_with_the_schedules_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    made: list[Any] = []

    def build(self: Any, progress: Any) -> Path:
        made.append(self)
        (tmp_path / "made.zip").write_bytes(b"kit")
        return tmp_path / "made.zip"

    monkeypatch.setattr("nas.profiling.kit.Kit.build", build)
    arguments = ("--model", str(tiny / "model"), "--workload", str(WORKLOAD), "-o", str(tmp_path / "kit.zip"))
    for tokens in ("off", "visionzip:0.5", "search"):
        done = CliRunner().invoke(app, ["profile", "kit", "--target", "jetson-orin", *arguments, "--tokens", tokens])
        assert done.exit_code == 0, done.output
    off, fixed, searched = (kit.space for kit in made)
    assert off is None
    assert fixed.fixed.stages
    assert searched.reduction == Reduction(Scorer.CLASS)
    assert len({kit._name_kit() for kit in made}) == 3


def test_wrong_words_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["profile", "--model", str(tmp_path / "nowhere"), "--tokens", "some"])
    assert isinstance(done.exception, UsageError)
    assert "tokens 'some' is none of off, search" in str(done.exception)


@pytest.mark.slow
def test_a_profile_is_measured_with_its_schedule(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    done = profile(tiny, tmp_path / "out", "--tokens", "random:1=0.5", "--seconds", "1", "--json")
    assert done.exit_code == 0, done.output
    parent, target = load_parent_model(str(tiny / "model")), find_target(HOST)
    workload, space = choose_profiled(parent, target, WORKLOAD, "random:1=0.5", Silent())
    no_export = SimpleNamespace(graphs=None)
    found = load_latency_model(parent, target, workload, no_export, Silent(), space)  # known, so not measured
    assert isinstance(found, CalibratedModel)
    assert {str(record.architecture.tokens) for record in found.profile.records} == {"", "1=0.5"}
