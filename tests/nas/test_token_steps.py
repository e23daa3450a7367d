"""The parent is measured on as many tokens as is said, and the latency model's shape agrees with what surgery drops."""

from pathlib import Path

import pytest
from test_export_reduced import subject_of

from latency_models import shape
from latency_models.staircase import Staircase, staircase
from latency_models.workload import Workload
from nas import token_steps
from nas.latency import ParentExport
from nas.progress import Silent
from nas.token_steps import image_staircase, measured_counts
from pruning.reduction import layout


def test_each_number_of_tokens_is_measured_beside_the_whole_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, fed = ParentExport(subject_of("bert", tmp_path), Silent()), []

    class Session:
        def __init__(self, path: Path, threads: int) -> None:
            self.real = real(path, threads)

        def get_inputs(self):
            return self.real.get_inputs()

        def run(self, names, feed):
            fed.append(feed["input_ids"].shape)
            return self.real.run(names, feed)

    real = token_steps.open_session
    monkeypatch.setattr(token_steps, "open_session", Session)
    measured = measured_counts(export, Workload.parse("forward:batch=2,seq=64"), [8, 32], seconds=0.0)
    assert sorted(measured) == [8, 32, 64]
    assert set(fed) == {(2, 8), (2, 32), (2, 64)}
    assert {count: one.workload.sequence for count, one in measured.items()} == {8: 8, 32: 32, 64: 64}
    assert all(len(one.samples_ms) >= 20 for one in measured.values())


@pytest.mark.slow
def test_images_are_measured_through_exports_that_drop_before_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, asked = ParentExport(subject_of("vit", tmp_path), Silent()), {}

    def seen(milliseconds, tile=8) -> Staircase:
        asked.update(milliseconds)
        return staircase({count: float(count) for count in milliseconds})

    monkeypatch.setattr(token_steps, "_COUNTS", 2)
    monkeypatch.setattr(token_steps, "measured_staircase", seen)
    tokens = export.subject.shape.tokens
    found = image_staircase(export, Workload.parse(f"forward:batch=1,seq={tokens}"), seconds=0.0)
    assert sorted(asked) == [1 + (tokens - 1) // 2, tokens]  # the class token, and half of the patches
    assert found.smooth


def test_latency_counts_as_droppable_what_surgery_drops() -> None:
    assert (shape.SINKS, shape.RECENT) == (layout.SINKS, layout.RECENT)
