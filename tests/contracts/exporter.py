"""What every exporter does: subclass it with an `exporter`, and its tests run."""

from pathlib import Path

import pytest
from families import build

from latency_models.targets import list_targets
from latency_models.workload import Phase
from nas.export.exporters import EXPORTERS, Exporter, find_exporter
from nas.export.parity import check_parity
from search_spaces.errors import ExportError


class ExporterContract:
    exporter: Exporter

    def test_it_is_registered_under_its_name(self) -> None:
        assert EXPORTERS[self.exporter.name] == self.exporter

    def test_its_files_have_names_of_their_own(self) -> None:
        names = [exporter.name_file("model-decode.onnx") for exporter in EXPORTERS.values()]
        assert names.count(self.exporter.name_file("model-decode.onnx")) == 1
        assert all(name.endswith(".onnx") for name in names)

    def test_a_file_computes_what_the_model_does(self, tmp_path: Path) -> None:
        model = build("vit")
        path = tmp_path / self.exporter.name_file("model.onnx")
        exported = self.exporter.export(model, path, Phase.FORWARD)
        assert check_parity(model, path, Phase.FORWARD) < 1e-3
        assert exported.reason or exported.opset == self.exporter.opset

    def test_a_phase_that_the_model_has_not_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError):
            self.exporter.export(build("vit"), tmp_path / "model.onnx", Phase.DECODE)

    def test_every_target_has_one(self) -> None:
        assert {find_exporter(target.runtime).name for target in list_targets()} == set(EXPORTERS)
