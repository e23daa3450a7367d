"""Files of every schema as the first release wrote them: what a person kept goes on loading."""

import json
import shutil
from pathlib import Path

import optuna
import pytest

from nas.quality.evaluations.file import FileEvaluations
from nas.quality.precision import Precision
from nas.report import write_report
from nas.report.finished import read_finished
from nas.request.search_request import SearchRequest
from nas.results.certificate import Certificate, Verdict
from nas.search import Problem
from nas.search.journal import Journal
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import STRUCTURE, Architecture, Kind, Space, Unit
from search_spaces.architecture import drop_from_parent, make_stage_choice
from search_spaces.schedule import Positions, Reducer, Reduction, Scorer, Source, Stage

FROZEN = Path(__file__).parent / "frozen"
WINNER = drop_from_parent(4, {Unit(0, Kind.MLP), Unit(1, Kind.ATTENTION), Unit(3, Kind.ATTENTION)})
REDUCED = drop_from_parent(
    4,
    {Unit(2, Kind.ATTENTION), make_stage_choice(Stage(1, 750)), make_stage_choice(Stage(3, 500))},
    Reduction(Scorer.CLASS, Reducer.RECYCLE, Positions.KEPT, Source.PREVIOUS),
)


@pytest.mark.parametrize(
    ("version", "architecture", "digest"), [(1, WINNER, "22a2016dd9c2"), (2, REDUCED, "682c8ff68667")]
)
def test_architectures_keep_their_form_and_their_digest(version: int, architecture: Architecture, digest: str) -> None:
    document = json.loads((FROZEN / f"architecture-{version}.json").read_text())
    assert Architecture.from_json(document) == architecture
    assert architecture.to_json() == document
    assert architecture.digest == digest


def test_evaluations_are_known(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    shutil.copy(FROZEN / "evaluations-1.jsonl", path)
    known = FileEvaluations(path, "787cc6d10d8ef1db/4b5ff0206bb80d68/kl")
    dropped = drop_from_parent(4, {Unit(3, Kind.ATTENTION)})
    assert known[dropped, 4, Precision.BF16].loss == 0.0076784053817391396
    assert known[REDUCED, 2, Precision.FP32].per_item == (0.1, 0.4)
    assert len(known) == 9


def test_a_request_can_be_resumed(tmp_path: Path) -> None:
    shutil.copy(FROZEN / "request-1.json", tmp_path / "request.json")
    request = SearchRequest.load(tmp_path)
    assert (request.target, request.budget.text, request.model) == ("jetson-orin", "0.7x", "tiny/model")
    assert (request.trials, request.seed, request.units, request.id) == (8, 0, STRUCTURE, "0af934a9d4d6")


def test_a_certificate_says_what_it_said() -> None:
    certificate = Certificate.load(FROZEN / "certificate-2.json")
    assert certificate.verdict is Verdict.PREDICTED
    assert certificate.architecture == WINNER
    assert certificate.winner is not None
    assert len(certificate.winner.samples_ms) == 40


def test_a_result_folder_is_shown(tmp_path: Path) -> None:
    (tmp_path / "winner").mkdir()
    shutil.copy(FROZEN / "result-1.json", tmp_path / "result.json")
    shutil.copy(FROZEN / "request-1.json", tmp_path / "request.json")
    shutil.copy(FROZEN / "certificate-2.json", tmp_path / "winner" / "certificate.json")
    finished = read_finished(tmp_path)
    assert finished.request is not None
    assert finished.certificate is not None
    write_report([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "0.0096" in page  # the winner's loss on the test split
    assert finished.certificate.reason in page


def test_a_study_is_continued(tmp_path: Path) -> None:
    shutil.copy(FROZEN / "study.sqlite", tmp_path / "study.db")
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (name,) = optuna.get_all_study_names(storage)
    kinds = (Kind.ATTENTION, Kind.MLP)
    space = Space.dropping(4, tuple(Unit(layer, kind) for layer in range(4) for kind in kinds))
    ones = (1.0,) * 4
    problem = Problem(
        space=space, evaluate=lambda architecture, items: pytest.fail("it was judged"),
        latency=SyntheticLatency(4),  # not what the study's own milliseconds come from
        budget_ms=2.0, percentile=90, redundancy=Redundancy("made", "pre_norm", 1, ones, ones, ones, ((1.0,) * 5,) * 5),
        storage=storage, study=name,
    )  # fmt: skip
    losses = {candidate.architecture.digest: candidate.quality.loss for candidate in Journal(problem).list_candidates()}
    assert len(losses) == 8
    assert losses[WINNER.digest] == 0.009856155142188072
    assert losses["357725f248b0"] == 0.12971876934170723
