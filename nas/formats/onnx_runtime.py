"""`onnx`: graphs for ONNX Runtime, of one pass over all tokens and, for a decoder, of a step with a cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latency_models.runtime_ort import count_default_threads, open_session
from latency_models.workload import Phase
from nas.export.cached_export import is_past, read_cache_layers
from nas.export.companions import carry_companions
from nas.export.onnx_export import build_file_name
from nas.formats.format import Answers, FormatBase, NotRun, Probe
from nas.formats.parity import answer, build_probe, decodes, rounds_by_call
from nas.formats.source import Source
from nas.progress import Progress
from search_spaces.errors import ExportError


@dataclass(frozen=True)
class OnnxFormat(FormatBase):
    """`model.onnx`, and the files of the cached phases where the model has them."""

    name: str = "onnx"

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write every phase, each compared with the model at many lengths."""
        for phase in list_phases(source.model):
            source.write_graph(phase, folder / build_file_name(phase), progress)
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one."""
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What ONNX Runtime answers."""
        import onnxruntime

        return answer(f"ONNX Runtime {onnxruntime.__version__}", lambda: OnnxLoaded(folder), probe)


def list_phases(model: Any) -> tuple[Phase, ...]:
    """The phases that are delivered: `decode` reads prompts too, unless tokens are dropped from them or they show an
    image. Where inputs are rounded by call, steps are no part of one pass, and there is none."""
    if rounds_by_call(model):
        return (Phase.FORWARD,)
    try:
        read_cache_layers(model, Phase.DECODE)
    except ExportError:  # it has no cache that crosses the border of a file
        return (Phase.FORWARD,)
    return (Phase.FORWARD, Phase.DECODE) if decodes(model) else (Phase.FORWARD, Phase.PREFILL, Phase.DECODE)


class OnnxLoaded:
    """The graphs of a folder in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        """Open those that are there."""
        threads = count_default_threads()
        paths = {phase: folder / build_file_name(phase) for phase in (Phase.FORWARD, Phase.DECODE)}
        self._sessions = {phase: open_session(path, threads) for phase, path in paths.items() if path.exists()}

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """The first output."""
        session = self._sessions[Phase.FORWARD]
        feed = {node.name: inputs[node.name].numpy() for node in session.get_inputs()}
        first: np.ndarray = session.run(None, feed)[0]
        return first

    def step(self, prompt: Tensor) -> np.ndarray:
        """The prompt but for its last token is read, then that one."""
        _, past = self._read(prompt[:, :-1].numpy(), {}, 0)
        logits, _ = self._read(prompt[:, -1:].numpy(), past, prompt.shape[1] - 1)
        return logits

    def generate(self, prompt: Tensor, count: int, stop: tuple[int, ...]) -> list[int]:
        """One token after another, each with the keys and values that the call before it gave."""
        logits, past = self._read(prompt.numpy(), {}, 0)
        tokens = [int(logits.argmax())]
        while len(tokens) < count and tokens[-1] not in stop:
            logits, past = self._read(np.array([tokens[-1:]]), past, prompt.shape[1] + len(tokens) - 1)
            tokens.append(int(logits.argmax()))
        return tokens

    def _read(
        self, tokens: np.ndarray, past: dict[str, np.ndarray], seen: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(vocabulary,) after tokens (1, new), and the keys and values of all tokens so far."""
        session = self._sessions[Phase.DECODE]
        total = seen + tokens.shape[1]
        feed: dict[str, Any] = {"input_ids": tokens, "attention_mask": np.ones((1, total), np.int64)}
        feed["position_ids"] = np.arange(seen, total)[None]
        for node in session.get_inputs():
            if is_past(node.name):
                _, heads, _, size = node.shape
                feed[node.name] = past.get(node.name, np.zeros((1, heads, 0, size), np.float32))
        names = {node.name for node in session.get_inputs()}
        outputs = [node.name for node in session.get_outputs()]
        given = dict(zip(outputs, session.run(None, {name: feed[name] for name in names}), strict=True))
        kept = {name.replace("present", "past", 1): value for name, value in given.items() if name != "logits"}
        return given["logits"][0, -1], kept
