"""The formats that are known, by name."""

from nas.formats.decilm import DeciLmFormat
from nas.formats.format import Format
from nas.formats.genai import GenAiFormat
from nas.formats.gguf import GgufFormat
from nas.formats.hf import HuggingFaceFormat
from nas.formats.onnx_runtime import OnnxFormat
from nas.formats.sentence_transformers import SentenceTransformersFormat
from nas.formats.tensorrt import TensorRtFormat

_KNOWN: tuple[Format, ...] = (
    OnnxFormat(),
    HuggingFaceFormat(),
    SentenceTransformersFormat(),
    GenAiFormat(),
    DeciLmFormat(),
    GgufFormat(),
    TensorRtFormat(),
)
FORMATS = {each.name: each for each in _KNOWN}
