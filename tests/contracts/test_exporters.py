"""The exporters of the program keep the contract."""

from exporter import ExporterContract

from nas.export.exporters import EXPORTERS


class TestOnnxRuntime(ExporterContract):
    exporter = EXPORTERS["onnxruntime"]


class TestTensorRt(ExporterContract):
    exporter = EXPORTERS["tensorrt"]
