"""Files of reduced models: one export per schedule, parts dropped by editing it; equal to the model."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from families import build

from latency_models.calibrated import CalibratedModel
from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.export.parity import check_parity
from nas.parent.shape import read_shape
from nas.profiling.host import derive_files, plan_measurements
from nas.profiling.host_profile import get_profile_path, load_host_profile
from nas.profiling.latency_model import load_latency_model
from nas.progress import Silent
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Reduction, Schedule, Scorer, Space, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.errors import ExportError
from search_spaces.schedule import Stage

HERE = Workload.parse("forward:batch=2,seq=10")
REDUCTION = Reduction(Scorer.CLASS)
SCHEDULE = Schedule.parse("1=0.5,3=0.25", REDUCTION)
FEWER = "mlp mlp attn+mlp attn"  # the attention that ranks at block 1 is gone
SPACE = Space.dropping(4, tuple(Unit(i, kind) for i in range(4) for kind in (Kind.ATTENTION, Kind.MLP)))


@dataclass(frozen=True)
class ParentModel:
    model: object
    anatomy: object
    shape: object
    cache: Path
    digest: str = "digest"


def build_parent(family: str, folder: Path) -> ParentModel:
    model = build(family)
    anatomy = read_anatomy(model)
    return ParentModel(model, anatomy, read_shape(model, anatomy), folder)


@pytest.fixture(scope="module")
def export(export_parent, tmp_path_factory: pytest.TempPathFactory) -> ParentExport:
    made = export_parent("vit")
    parent = ParentModel(
        made.model, made.anatomy, read_shape(made.model, made.anatomy), tmp_path_factory.mktemp("cache")
    )
    export = ParentExport(parent, Silent())
    export.__dict__["path"] = made.path  # as if it were in the cache
    return export


def scheduled(words: str, schedule: Schedule = SCHEDULE) -> Architecture:
    return Architecture.from_words(words).replace_tokens(schedule)


def assert_equal(export: ParentExport, architecture: Architecture, path: Path) -> None:
    parent = export.parent
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    assert check_parity(pruned, export.derive(architecture, path), export.phase) < 1e-4, architecture.words


@pytest.mark.parametrize(
    "words", [FEWER, "attn+mlp mlp attn mlp", "attn+mlp removed attn+mlp attn+mlp", "mlp mlp mlp mlp"]
)
def test_a_derived_file_equals_the_pruned_model(words: str, export: ParentExport, tmp_path: Path) -> None:
    """Also where the block at a stage is gone, or has no attention."""
    assert_equal(export, scheduled(words), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_other_families_too_and_stages_that_no_longer_act(family: str, tmp_path: Path) -> None:
    export = ParentExport(build_parent(family, tmp_path), Silent())
    scorer = Reduction(Scorer.LAST) if export.parent.anatomy.is_decoder else REDUCTION
    schedule = Schedule.parse("1=0.5,3=0.25", scorer)
    for words in (FEWER, "mlp mlp mlp mlp", "attn+mlp attn mlp removed", "attn+mlp removed removed mlp"):
        assert_equal(export, scheduled(words, schedule), tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_prompt_is_reduced_in_its_file_too(tmp_path: Path) -> None:
    export = ParentExport(build_parent("llama", tmp_path), Silent(), Phase.PREFILL)
    schedule = Schedule.parse("1=0.5,3=0.25", Reduction(Scorer.LAST))
    for words in (FEWER, "mlp mlp mlp mlp", "attn+mlp attn mlp removed", "attn+mlp removed attn+mlp attn"):
        assert_equal(export, scheduled(words, schedule), tmp_path / "model.onnx")


def test_a_schedule_is_exported_once_and_kept_without_its_weights(
    export: ParentExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.derive(scheduled(FEWER), tmp_path / "first.onnx")
    (kept,) = export.parent.cache.glob("tokens-*.onnx")
    assert kept.stat().st_size < 0.5 * export.path.stat().st_size
    monkeypatch.setattr("nas.export.exporters.export_for_onnx_runtime", None)
    again = ParentExport(export.parent, Silent())
    again.__dict__["path"] = export.path
    again.derive(scheduled(FEWER), tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert_equal(again, scheduled("mlp attn+mlp attn+mlp attn"), tmp_path / "other.onnx")


def test_the_parent_s_own_graph_refuses_a_schedule_that_it_does_not_have(export: ParentExport, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tokens\.1=0\.5, tokens\.3=0\.25: the graph was exported with nothing"):
        export.graph.derive(scheduled(FEWER), tmp_path / "model.onnx")
    dropped = scheduled("attn+mlp removed removed removed")  # no block is left for any stage
    assert_equal(export, dropped, tmp_path / "model.onnx")
    assert export.graphs.get_graph(dropped) is export.graph


def test_all_files_read_one_file_of_weights(export: ParentExport, tmp_path: Path) -> None:
    chosen = [Architecture.parent(4), Architecture.from_words(FEWER), scheduled(FEWER), scheduled("mlp " * 4)]
    files = derive_files(export.graphs, chosen, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"weights.data", *(f"{a.digest}.onnx" for a in chosen)}
    parents = sum(len(t.raw_data) for t in export.graph.proto.graph.initializer)
    assert (tmp_path / "weights.data").stat().st_size < parents + 4096 * 100  # tensors start on pages
    inputs = make_workload_inputs(export.parent.model, HERE)
    for architecture in chosen:
        alone = export.derive(architecture, tmp_path / "alone.onnx")
        one, other = (open_session(path, 1).run(None, inputs)[0] for path in (alone, files[architecture.digest]))
        assert (one == other).all()


def test_a_profile_covers_the_schedules_of_a_space_and_is_kept_apart(
    export: ParentExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [make_stage_choice(Stage(stage.block, stage.permille)) for stage in SCHEDULE.stages]
    reduced = Space.dropping(4, (*SPACE.choices, *steps), reduction=REDUCTION)
    parent, target = export.parent, SimpleNamespace(is_host=True)
    monkeypatch.setattr("nas.profiling.host.choose_schedules", lambda *given: [SCHEDULE])  # one export
    profile = load_host_profile(parent, export, HERE, Silent(), seconds=0.3, space=reduced)
    measured = [record.architecture for record in profile.records]
    assert measured == plan_measurements(parent.shape, HERE, reduced)
    assert {architecture.tokens for architecture in measured} == {Schedule(), SCHEDULE}
    paths = {get_profile_path(parent, HERE, space) for space in (None, SPACE, reduced, Space(4, reduced.choices[:-1]))}
    assert len(paths) == 3
    assert get_profile_path(parent, HERE) == get_profile_path(parent, HERE, SPACE)
    model = load_latency_model(parent, target, HERE, export, Silent(), reduced)  # not measured again
    assert isinstance(model, CalibratedModel)
    assert model.terms.tokens
    assert [record.architecture for record in model.profile.records] == measured


def test_weights_taken_out_of_a_graph_come_back(export: ParentExport) -> None:
    from nas.export.shared_weights import remove_parent_weights, restore_parent_weights

    proto = export.graphs.get_graph(scheduled(FEWER)).proto
    light = remove_parent_weights(proto, export.graph.proto)
    assert light.ByteSize() < 0.5 * proto.ByteSize()
    again = restore_parent_weights(onnx.load_from_string(light.SerializeToString()), export.graph.proto)
    assert [t.raw_data for t in again.graph.initializer] == [t.raw_data for t in proto.graph.initializer]
