"""A kit that covers token schedules: measured as a device would, and used by a search that asks for them only."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from families import build

import nas.profiling.kit
from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.runner.plan import Plan
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.profiling.host import plan_measurements
from nas.profiling.kit import Kit
from nas.profiling.latency_model import load_latency_model
from nas.profiling.profile_store import import_profile
from nas.progress import Silent
from pruning.checkpoint import save
from search_spaces import Architecture, Kind, Reduction, Scorer, Space, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.schedule import Stage

ORIN, HERE = find_target("jetson-orin"), Workload.parse("forward:batch=2,seq=17")
PARTS = tuple(Unit(layer, kind) for layer in range(4) for kind in (Kind.ATTENTION, Kind.MLP))


@pytest.mark.slow
def test_a_kit_measures_schedules_and_a_search_for_others_takes_the_data_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nas.profiling.kit, "_DRAWN_BYTES", 1 << 10)
    save(build("vit"), tmp_path / "model")
    parent = load_parent_model(str(tmp_path / "model"))
    space = Space.dropping(4, (*PARTS, make_stage_choice(Stage(2, 500))), reduction=Reduction(Scorer.CLASS))
    kit = Kit(parent, ORIN, HERE, seconds=1, space=space)
    assert kit._name_kit() != replace(kit, space=None)._name_kit()
    (tmp_path / "kit").mkdir()
    kit.write(tmp_path / "kit")
    plan = Plan.read(tmp_path / "kit")
    assert [Architecture.from_json(c.architecture) for c in plan.candidates] == plan_measurements(
        parent.shape, HERE, space
    )
    command = [sys.executable, "run.py", "--provider", "cpu"]
    done = subprocess.run(command, cwd=tmp_path / "kit", capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    parent.cache.mkdir(parents=True, exist_ok=True)
    profile, _ = import_profile(tmp_path / "kit" / "profile.json", parent)
    assert any(record.architecture.reduction == space.reduction for record in profile.records)
    export = ParentExport(parent, Silent())
    found = load_latency_model(parent, ORIN, HERE, export, Silent(), space)
    assert isinstance(found, CalibratedModel)
    assert found.terms.tokens
    other = replace(space, reduction=Reduction(Scorer.NORM))
    assert isinstance(load_latency_model(parent, ORIN, HERE, export, Silent(), other), DataSheetModel)
