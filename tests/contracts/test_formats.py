"""The formats of the program keep the contract."""

from pathlib import Path

from deployed_format import PARTS, FormatContract, write_source
from sentence_folders import write_folder

from nas.formats import FORMATS, Source, read_source
from pruning.checkpoint import load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice


class TestOnnx(FormatContract):
    format = FORMATS["onnx"]


class TestHuggingFace(FormatContract):
    format = FORMATS["hf"]


class TestSentenceTransformers(FormatContract):
    format = FORMATS["sentence-transformers"]

    def make_source(self, folder: Path) -> Source:
        parent = write_folder(folder / "parent", {"pooling_mode_cls_token": True, "embedding_dimension": 32})
        save(prune(load_parent(parent), PARTS), folder / "winner", companions=parent)
        return read_source(folder / "winner")

    def refused(self, folder: Path) -> Source | None:
        return write_source(folder)


class TestGenAi(FormatContract):
    format = FORMATS["genai"]

    def refused(self, folder: Path) -> Source | None:
        return write_source(folder, "vit")


class TestDeciLm(FormatContract):
    format = FORMATS["decilm"]

    def refused(self, folder: Path) -> Source | None:
        return write_source(folder, "gpt2")


class TestGguf(FormatContract):
    format = FORMATS["gguf"]

    def refused(self, folder: Path) -> Source | None:
        return write_source(folder, "gpt2")


class TestTensorRt(FormatContract):
    format = FORMATS["tensorrt"]

    def refused(self, folder: Path) -> Source | None:
        return write_source(folder, "llama", Architecture(4).drop(Choice.parse("mlp.1:bits=w8")))


def test_every_format_has_its_contract() -> None:
    tested = {each.format.name for each in FormatContract.__subclasses__()}
    assert tested == set(FORMATS)
