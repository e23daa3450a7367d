"""The formats that are known, by name."""

from nas.formats.format import Format
from nas.formats.hf import HuggingFaceFormat
from nas.formats.onnx_runtime import OnnxFormat
from nas.formats.sentence_transformers import SentenceTransformersFormat

FORMATS: dict[str, Format] = {
    each.name: each for each in (OnnxFormat(), HuggingFaceFormat(), SentenceTransformersFormat())
}
