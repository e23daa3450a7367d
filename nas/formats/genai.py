"""`genai`: a folder from which ONNX Runtime GenAI generates.

It feeds one graph with prompts and single tokens alike, keeps one pair of keys and values for each attention, numbered
from 0 without gaps, and takes one number of heads and one size of a head for all of them. So the graph of `decode` is
delivered, with the caches of what is left renumbered.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latency_models.workload import Phase
from nas.export.cached_export import CacheLayer, name_cache_tensors, read_cache_layers
from nas.export.companions import carry_companions
from nas.export.onnx_export import export_onnx
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.parity import answer, build_probe, decodes, rounds_by_call
from nas.formats.source import Source
from nas.progress import Progress
from pruning.anatomy.language_model import find_language_config
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError
from search_spaces.weight_formats import ALL_FORMATS, Inputs

GRAPH, CONFIG = "model.onnx", "genai_config.json"
_PAST = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value"}
_PRESENT = {"key": "present.%d.key", "value": "present.%d.value"}
_MODEL_TYPE = "decoder"  # of any family: prompt and cache are fed in the same way


@dataclass(frozen=True)
class GenAiFormat(FormatBase):
    """A graph, `genai_config.json` and the tokenizer."""

    name: str = "genai"
    needs: Mapping[str, str] = field(default_factory=lambda: {"onnxruntime_genai": "pip install 'nas[genai]'"})

    def find_refusal(self, source: Source) -> Refusal | None:
        """Models that are no decoders of text, and caches that are unlike each other."""
        if rounds_by_call(source.model):
            return Refusal(
                "int8 rounds the inputs of a call with one scale for all tokens, so steps from a cache differ",
                _restore_called(source),
            )
        if not decodes(source.model):
            return Refusal("only a decoder that reads nothing but words, all of them in every block, generates there")
        try:
            layers = read_cache_layers(source.model, Phase.DECODE)
        except ExportError as error:
            return Refusal(str(error))
        if not layers:
            return Refusal("no attention is left, and there the length of a text is that of its cache")
        unlike = {(layer.keys, layer.values) for layer in layers}
        if len(unlike) > 1 or layers[0].keys != layers[0].values:
            return Refusal("all keys and values have to be of one number of heads and one size there")
        return None

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write the graph, and how it is fed."""
        layers = read_cache_layers(source.model, Phase.DECODE)
        if any(layer.window is not None for layer in layers):  # the package gives all caches one length
            export_onnx(source.model, folder / GRAPH, phase=Phase.DECODE, whole_cache=True)
        else:
            source.write_graph(Phase.DECODE, folder / GRAPH, progress)
        _renumber(folder / GRAPH, layers)
        (folder / CONFIG).write_text(json.dumps(_build_config(source.model, layers), indent=2) + "\n")
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one."""
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What the package answers."""
        import onnxruntime_genai

        program = f"ONNX Runtime GenAI {onnxruntime_genai.__version__}"
        return answer(program, lambda: _Loaded(folder), probe)


def _restore_called(source: Source) -> Architecture | None:
    """The nearest architecture that rounds no inputs by call."""
    architecture = source.architecture
    if architecture is None:
        return None
    names = tuple(f"={name}" for name, format in ALL_FORMATS.items() if format.inputs is Inputs.CALL)
    return architecture.restore(*(choice for choice in architecture.choices if str(choice).endswith(names)))


def _renumber(path: Path, layers: tuple[CacheLayer, ...]) -> None:
    """Name keys and values by their place among those that are left, in place."""
    import onnx

    names: dict[str, str] = {}
    for place, layer in enumerate(layers):
        for prefix, pattern in (("past", _PAST), ("present", _PRESENT)):
            own = zip(name_cache_tensors(prefix, layer.block), pattern.values(), strict=True)
            names |= {name: wanted % place for name, wanted in own}
    proto = onnx.load(str(path), load_external_data=False)
    graph = proto.graph
    for node in graph.node:
        for given in (node.input, node.output):
            for at, name in enumerate(given):
                given[at] = names.get(name, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    onnx.save(proto, str(path))


def _build_config(model: Any, layers: tuple[CacheLayer, ...]) -> dict[str, Any]:
    """What the package has to know of a model: how it is fed, and when a text ends."""
    config, settings = find_language_config(model), model.generation_config
    heads, size = layers[0].keys
    length = int(getattr(config, "max_position_embeddings", None) or 1 << 15)
    fed = {"input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids"}
    end = settings.eos_token_id if settings.eos_token_id is not None else -1
    padding = settings.pad_token_id if settings.pad_token_id is not None else 0
    decoder = {
        "session_options": {"provider_options": []},
        "filename": GRAPH,
        "head_size": size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": len(layers),
        "num_key_value_heads": heads,
        "inputs": {**fed, "past_key_names": _PAST["key"], "past_value_names": _PAST["value"]},
        "outputs": {"logits": "logits", "present_key_names": _PRESENT["key"], "present_value_names": _PRESENT["value"]},
    }
    return {
        "model": {
            "type": _MODEL_TYPE, "context_length": length, "vocab_size": config.vocab_size,
            "bos_token_id": settings.bos_token_id if settings.bos_token_id is not None else 0,
            "eos_token_id": end, "pad_token_id": padding, "decoder": decoder,
        },
        "search": {"do_sample": False, "max_length": length, "past_present_share_buffer": False},
    }  # fmt: skip


class _Loaded:
    """A folder in the package."""

    def __init__(self, folder: Path) -> None:
        """Load it."""
        import onnxruntime_genai

        self._package, self._model = onnxruntime_genai, onnxruntime_genai.Model(str(folder))

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """(batch, 1, vocabulary) of the last token of each row."""
        rows = [self._start(row, 1).get_output("logits")[:, -1:] for row in inputs["input_ids"]]
        last: np.ndarray = np.concatenate(rows)
        return last

    def step(self, prompt: Tensor) -> np.ndarray:
        """The prompt but for its last token is read, then that one."""
        generator = self._start(prompt[0, :-1], 2)
        generator.append_tokens(prompt[0, -1:].numpy().astype(np.int32))
        logits: np.ndarray = generator.get_output("logits")[0, -1]
        return logits

    def generate(self, prompt: Tensor, count: int, stop: tuple[int, ...]) -> list[int]:
        """As the package's own examples do it."""
        generator = self._start(prompt[0], count)
        while not generator.is_done():
            generator.generate_next_token()
        tokens: list[int] = generator.get_sequence(0)[prompt.shape[1] :].tolist()
        return tokens

    def _start(self, tokens: Tensor, more: int) -> Any:
        parameters = self._package.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(tokens) + more, do_sample=False)
        generator = self._package.Generator(self._model, parameters)
        generator.append_tokens(tokens.numpy().astype(np.int32))
        return generator
