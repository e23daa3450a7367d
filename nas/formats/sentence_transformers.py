"""`sentence-transformers`: a folder that `SentenceTransformer(path)` loads, in PyTorch and with `backend="onnx"`.

The package's ONNX backend is Optimum, which takes Transformers below 4.58 only: there our model types cannot be
registered. So the graph of a model that lost parts of blocks lies in a folder of its own, `onnx-backend`, without
weights that another backend could misread.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_models.runtime_ort import count_default_threads, open_session
from latency_models.workload import Phase
from nas.export.companions import carry_companions
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.hf import HuggingFaceFormat
from nas.formats.parity import answer
from nas.formats.source import Source
from nas.progress import Progress
from nas.quality.embedding import embed
from pruning.anatomy.language_model import find_language_config
from pruning.checkpoint import register
from pruning.checkpoint.rebuilding import PREFIX
from pruning.checkpoint.sentence_embedding import SentenceEmbedding, read_sentence_embedding
from pruning.checkpoint.tokenizer import encode, load_tokenizer
from pruning.surgery.prune import RECORD

TEXTS = (
    "How do I read a file line by line?",
    "The cat sat on the mat.",
    "A much longer sentence, with several clauses and a number such as 42, so that the others are padded beside it.",
)
TOLERANCES = {"PyTorch": 1e-5, "ONNX": 1e-4}  # of vectors
BACKEND, GRAPH = "onnx-backend", "onnx/model.onnx"


@dataclass(frozen=True)
class SentenceTransformersFormat(FormatBase):
    """The Hugging Face folder, with the graph where the package's ONNX backend looks for it."""

    name: str = "sentence-transformers"
    needs: Mapping[str, str] = field(
        default_factory=lambda: {"sentence_transformers": "pip install sentence-transformers"}
    )

    def find_refusal(self, source: Source) -> Refusal | None:
        """A model whose folder does not say how texts are embedded: the package would pool in a way of its own."""
        if read_sentence_embedding(source.model) is None:
            return Refusal("no modules.json beside the weights says how the model embeds texts")
        return None

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write folder and graph."""
        HuggingFaceFormat().export(source, folder, progress)
        graph = self._find_graph(source, folder)
        source.write_graph(Phase.FORWARD, graph, progress)
        if not source.plain:
            carry_companions(source.model, source.folder, folder / BACKEND)
            config = json.loads((folder / "config.json").read_text())
            config.pop(RECORD)
            config["model_type"] = config["model_type"].removeprefix(PREFIX)
            (folder / BACKEND / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _name_tokenizer(graph.parents[1])

    def build_probe(self, source: Source) -> Probe:
        """Texts, and the vectors that the model gives for each of them alone."""
        embedding = read_sentence_embedding(source.model)
        assert embedding is not None, "another is refused"
        expected = _embed_texts(source, embedding)
        return Probe(
            tuple({"texts": TEXTS, "with": name} for name in TOLERANCES), (expected, expected),
            tuple(TOLERANCES.values()), tuple(f"encode, {name}" for name in TOLERANCES),
        )  # fmt: skip

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What the package answers in PyTorch, and with the graph."""
        import sentence_transformers

        note = "with the graph through the package's own pooling"
        if not source.plain:
            register(folder)
            note = f"after `import nas; nas.register(folder)`; backend='onnx' loads {BACKEND}; {note}"
        graph = self._find_graph(source, folder)
        program = f"Sentence Transformers {sentence_transformers.__version__}"
        return answer(program, lambda: _Loaded(folder, graph), probe, note)

    def _find_graph(self, source: Source, folder: Path) -> Path:
        return folder / GRAPH if source.plain else folder / BACKEND / GRAPH


def _name_tokenizer(folder: Path) -> None:
    """Call the tokenizer by the name of its class that earlier versions of Transformers know, too."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        path.write_text(path.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))


@torch.no_grad()
def _embed_texts(source: Source, embedding: SentenceEmbedding) -> Tensor:
    """(texts, width), each text embedded alone."""
    tokenizer = load_tokenizer(source.folder)
    longest = embedding.max_length or find_language_config(source.model).max_position_embeddings
    rows = []
    for text in TEXTS:
        words = embedding.prompt + (text.lower() if embedding.lower_case else text)
        ids = torch.tensor([encode(tokenizer, words, truncation=True, max_length=longest)])
        rows.append(embed(source.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, embedding)[0])
    return torch.stack(rows)


class _Loaded:
    """A folder in the package, and its graph in ONNX Runtime."""

    def __init__(self, folder: Path, graph: Path) -> None:
        """Load both."""
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self._graph = graph

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """(texts, width)."""
        texts = list(inputs["texts"])
        if inputs["with"] == "PyTorch":
            encoded: np.ndarray = self._model.encode(texts)
            return encoded
        return self._run_graph(texts)

    @torch.no_grad()
    def _run_graph(self, texts: list[str]) -> np.ndarray:
        """As the package does it with another backend: the states come from the graph, what follows is its own."""
        prompt = self._model.prompts.get(self._model.default_prompt_name or "") or ""
        features = self._model.preprocess([prompt + text for text in texts])
        session = open_session(self._graph, count_default_threads())
        feed = {node.name: features[node.name].numpy() for node in session.get_inputs()}
        features["token_embeddings"] = torch.from_numpy(session.run(["last_hidden_state"], feed)[0])
        for module in list(self._model)[1:]:
            features = module(features)
        vectors: np.ndarray = features["sentence_embedding"].numpy()
        return vectors
