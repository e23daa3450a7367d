"""The parent is measured on as many tokens as is said, and the latency model's shape agrees with what surgery drops."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_export_reduced import ParentModel, build_parent
from torch import nn

from latency_models import shape
from latency_models.measurement import Measurement
from latency_models.staircase import Staircase
from latency_models.targets import HOST, find_target
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.profiling import token_staircase
from nas.profiling.token_staircase import (
    assume_steps,
    describe_steps,
    load_steps,
    measure_counts,
    measure_image_counts,
    measure_steps,
)
from nas.progress import Silent
from nas.tokens.profiled_schedules import choose_profiled
from nas.tokens.space import add_tokens, build_snapping
from pruning.reduction import layout
from search_spaces.kinds import STRUCTURE
from search_spaces.level import KEEP
from search_spaces.space import Space

THIS_MACHINE = find_target(HOST)
TEXT = Workload.parse("forward:batch=2,seq=128")


def test_each_number_of_tokens_is_measured_beside_the_whole_sequence(
    export_parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, fed = ParentExport(build_parent("bert", tmp_path), Silent()), []
    export.__dict__["path"] = export_parent("bert").path  # as if it were in the cache

    class Session:
        def __init__(self, path: Path, threads: int) -> None:
            self.real = real(path, threads)

        def get_inputs(self):
            return self.real.get_inputs()

        def run(self, names, feed):
            fed.append(feed["input_ids"].shape)
            return self.real.run(names, feed)

    real = token_staircase.open_session
    monkeypatch.setattr(token_staircase, "open_session", Session)
    measured = measure_counts(export, Workload.parse("forward:batch=2,seq=64"), [8, 32], seconds=0.0)
    assert sorted(measured) == [8, 32, 64]
    assert set(fed) == {(2, 8), (2, 32), (2, 64)}
    assert {count: one.workload.sequence for count, one in measured.items()} == {8: 8, 32: 32, 64: 64}
    assert all(len(one.samples_ms) >= 20 for one in measured.values())


@pytest.mark.slow
def test_images_are_measured_through_exports_that_drop_before_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ParentExport(build_parent("vit", tmp_path), Silent())
    monkeypatch.setattr(token_staircase, "_COUNTS", 2)
    tokens = export.parent.shape.tokens
    found = measure_image_counts(export, Workload.parse(f"forward:batch=1,seq={tokens}"), seconds=0.0)
    assert sorted(found) == [1 + (tokens - 1) // 2, tokens]  # the class token, and half of the patches


def tiled(counts: list[int]) -> dict[int, Measurement]:
    """A machine that works on 32 tokens at a time: ms of each count beside the whole sequence."""
    return {
        count: Measurement((1.0 + -(-count // 32),) * 30, TEXT, (1.0 + TEXT.sequence // 32,) * 30)
        for count in {*counts, TEXT.sequence}
    }


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ParentModel:
    """A text encoder for which 8 to 32, 40 to 64, 72 to 96 and 104 to 128 tokens take as long."""
    monkeypatch.setattr(token_staircase, "measure_counts", lambda export, workload, counts: tiled(counts))
    parent = build_parent("bert", tmp_path)
    embeddings, length = parent.model.base_model.embeddings, TEXT.sequence
    parent.model.config.max_position_embeddings = length
    embeddings.position_embeddings = nn.Embedding(length, parent.model.config.hidden_size)
    embeddings.position_ids, embeddings.token_type_ids = torch.arange(length)[None], torch.zeros(1, length).long()
    return parent


@pytest.fixture
def stepped(encoder: ParentModel) -> ParentModel:
    """The same, whose steps have been measured."""
    measure_steps(ParentExport(encoder, Silent()), THIS_MACHINE, TEXT, Silent())
    return encoder


def left(space: Space) -> set[int]:
    """Tokens of a text that stages may leave; the first of 128 always stays."""
    return {1 + 127 * (step.level.get_value(KEEP) or 0) // 1000 for step in space.steps}


def test_what_was_measured_is_known_from_then_on(stepped: ParentModel) -> None:
    found = load_steps(stepped, THIS_MACHINE, TEXT)
    assert found == Staircase((32, 64, 96, 128), (8, 40, 72, 104), 8)
    others = [load_steps(stepped, find_target("jetson-orin"), TEXT),
              load_steps(stepped, THIS_MACHINE, Workload.parse("forward:batch=1,seq=128"))]  # fmt: skip
    assert others == [assume_steps(find_target("jetson-orin"), TEXT), Staircase(tile=8)]


def test_ratios_end_on_the_measured_steps(stepped: ParentModel) -> None:
    """95 of the 127 that may go are left where 96 take as long as 73."""
    space = add_tokens(stepped.anatomy.build_space(STRUCTURE), stepped, THIS_MACHINE, TEXT, "search")
    assert left(space) == {32, 64, 96}
    assert 1 + 127 * round(1000 * build_snapping(stepped, THIS_MACHINE, TEXT)(0.6)) // 1000 == 96


def test_a_profile_measures_steps_before_it_takes_ratios(encoder: ParentModel) -> None:
    without_data = SimpleNamespace(**vars(encoder), id="bert", data=None)
    _, space = choose_profiled(without_data, THIS_MACHINE, TEXT, "search", Silent())
    assert space is not None
    assert left(space) == {32, 64, 96}


@pytest.mark.parametrize("damaged", ["", "[]", '{"steps": {"tops": [8]}}', "another key"])
def test_what_cannot_be_read_or_was_measured_elsewhere_is_not_used(stepped: ParentModel, damaged: str) -> None:
    (file,) = stepped.cache.glob("steps-*.json")
    file.write_text(file.read_text().replace('"threads"', '"thread"') if damaged == "another key" else damaged)
    assert load_steps(stepped, THIS_MACHINE, TEXT) == Staircase(tile=8)


def test_short_sequences_and_prompts_with_images_are_not_measured(tmp_path: Path) -> None:
    """Their exports are not even asked for."""
    short = ParentExport(build_parent("bert", tmp_path / "bert"), Silent())
    assert measure_steps(short, THIS_MACHINE, Workload.parse("forward:batch=1,seq=20"), Silent()) == Staircase(tile=1)
    images = ParentExport(build_parent("llava", tmp_path / "llava"), Silent())
    assert measure_steps(images, THIS_MACHINE, Workload.parse("prefill:batch=1,seq=64"), Silent()) == Staircase(tile=8)
    assert not list(tmp_path.rglob("*.onnx"))


def test_steps_in_words() -> None:
    assert describe_steps(Staircase((32, 64), (8, 64))) == "token counts, 2 plateaus: equally long: 8 to 32"
    assert describe_steps(Staircase((32, 64), (32, 64))).endswith("each takes less time than the next larger one")
    assert describe_steps(Staircase()).endswith("multiples of 8 are used")


def test_latency_counts_as_droppable_what_surgery_drops() -> None:
    assert (shape.SINKS, shape.RECENT) == (layout.SINKS, layout.RECENT)


def test_shares_that_leave_as_many_tokens_have_one_name(encoder: ParentModel) -> None:
    """Of 127: the space's own where it has one, such as 0.5 for 63 and not 0.497; else the smallest in thousandths."""
    snap = build_snapping(encoder, THIS_MACHINE, TEXT)
    for permille in range(1, 1001):
        ratio = snap(permille / 1000)
        count = 127 * round(1000 * ratio) // 1000
        assert count == 127 * permille // 1000 + -(127 * permille // 1000 + 1) % 8  # the end of its tile
        smallest = next(k for k in range(1, 1001) if 127 * k // 1000 >= count) / 1000
        assert ratio == {15: 0.125, 31: 0.25, 63: 0.5, 95: 0.75}.get(count, smallest)
