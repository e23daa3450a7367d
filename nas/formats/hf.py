"""`hf`: a folder for Transformers. Plain where its classes build the model, else registered by one line.

Transformers 5.23 has settings by layer (`per_layer_config`), which five of its families read, and of which no class
reads `skip`: Llama builds a part that is to be skipped, with random weights. So a model that lost parts of blocks keeps
a model type of its own (`nas_<family>`), which the plain classes refuse and `nas.register` explains to them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from nas.export.companions import carry_companions
from nas.formats import hf_program
from nas.formats.format import TOKENS, Answers, FormatBase, NotRun, Probe
from nas.formats.parity import build_probe
from nas.formats.source import Source
from nas.progress import Progress
from pruning.checkpoint.auto_classes import find_auto_classes
from search_spaces.errors import ExportError

_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", "*.py")
_SECONDS = 3600  # that a program may take


@dataclass(frozen=True)
class HuggingFaceFormat(FormatBase):
    """Config, weights, tokenizer, processor and generation config."""

    name: str = "hf"

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Copy the files."""
        for pattern in _FILES:
            for file in source.folder.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one; of an encoder-decoder the whole model is asked."""
        return build_probe(source.model, whole=True)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What plain Transformers answers in a process of its own."""
        if source.model.is_remote_code():
            return NotRun("the model carries code of its own, which is not run here")
        asked = {
            "folder": str(folder.resolve()), "auto": find_auto(source), "register": not source.plain,
            "tokens": TOKENS, "stop": list(probe.stop),
        }  # fmt: skip
        tensors = {f"{at}/{name}": tensor for at, each in enumerate(probe.inputs) for name, tensor in each.items()}
        if probe.prompt is not None:
            tensors[hf_program.PROMPT] = probe.prompt
        given, arrays = run_program(Path(hf_program.__file__), asked, tensors)
        note = "" if source.plain else "after `import nas; nas.register(folder)`"
        outputs = tuple(arrays[str(at)] for at in range(len(probe.inputs)))
        return Answers(
            f"Transformers {given['version']}", outputs, given["load_seconds"], given["rate"],
            arrays.get(hf_program.STEP), tuple(given["made"]), note,
        )  # fmt: skip


def find_auto(source: Source) -> str:
    """The Auto class that gives the model's class; with a head where it has one."""
    config = json.loads((source.folder / "config.json").read_text())
    name = (config.get("architectures") or [type(source.model).__name__])[0]
    found = find_auto_classes(type(source.model.config), name)
    return found[0].__name__ if found else "AutoModel"


def run_program(script: Path, asked: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], Any]:
    """What a script answers, in a new process that starts in an empty folder: a JSON object, and arrays by name.

    Raises:
        ExportError: it fails; the message has the last line that it said.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "question.json").write_text(json.dumps(asked))
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, place / "question.safetensors")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(
            [sys.executable, "-P", str(script), name], cwd=place, env=environment, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ExportError(f"{script.stem} fails: {said[:200]}")
        with np.load(place / "reply.npz") as arrays:
            return json.loads((place / "reply.json").read_text()), dict(arrays)
