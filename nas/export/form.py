"""In which operators a file is written."""

from enum import StrEnum


class Form(StrEnum):
    """`ONNX_RUNTIME`: native attention where the runtime runs it right. `TENSORRT`: plain operators only."""

    ONNX_RUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"

    def file(self, name: str) -> str:
        """What a file of this form is called, of a model's file name."""
        return name if self is Form.ONNX_RUNTIME else f"{name.removesuffix('.onnx')}.{self}.onnx"
