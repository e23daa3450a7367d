"""The contract of a format: when it is refused, what is written, what its program is asked, and how that answers.

A new one is a class in a file of its own and a line in `formats.FORMATS`; `tests/contracts/deployed_format.py` says
what it has to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from nas.formats.source import Source
from nas.progress import Progress
from search_spaces.architecture import Architecture
from search_spaces.errors import MissingExtra

TOKENS = 32  # that a decoder generates


@dataclass(frozen=True)
class Refusal:
    """Why a format cannot hold a model, and the nearest architecture that it can; None where no architecture helps.

    Example:
        >>> Refusal("llama.cpp reads no BERT of this kind").words
        'llama.cpp reads no BERT of this kind'
    """

    reason: str
    nearest: Architecture | None = None

    @property
    def words(self) -> str:
        """In one line."""
        return self.reason if self.nearest is None else f"{self.reason}; the nearest it accepts: {self.nearest.words}"


@dataclass(frozen=True)
class Probe:
    """What a program is asked, and what the model itself answers.

    Attributes:
        inputs: named tensors of several shapes, or texts under `texts`.
        expected: outputs of the model for them; of a decoder (batch, tokens, vocabulary).
        prompt: (1, tokens) of a decoder; None for other models.
        step: (vocabulary,) logits after the prompt; the program reads its last token alone, from the cache.
        tokens: that follow the prompt greedily, as many as `TOKENS` or up to the end token.
        tolerances: how far each output may be off, relative to outputs above 1.
        names: of the comparisons, as they are reported.
        exact_tokens: whether all tokens have to be the same; not where inputs are rounded to few bits.
        stop: tokens that end a text.
    """

    inputs: tuple[Mapping[str, Any], ...]
    expected: tuple[Tensor, ...]
    tolerances: tuple[float, ...]
    names: tuple[str, ...]
    prompt: Tensor | None = None
    step: Tensor | None = None
    tokens: tuple[int, ...] = ()
    exact_tokens: bool = True
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a program answered.

    Attributes:
        program: its name and version.
        outputs: for each of the inputs; of a decoder possibly of the last token only.
        step, tokens: as of the probe.
        load_seconds: until it was ready.
        rate: tokens, or items, per second.
        note: what a person has to do or know to load the folder there; mostly nothing.
    """

    program: str
    outputs: tuple[np.ndarray, ...]
    load_seconds: float
    rate: float
    step: np.ndarray | None = None
    tokens: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class NotRun:
    """A folder that was written and not run: why, and what was checked of it instead."""

    reason: str


class Format(Protocol):
    """Writes the folder that one kind of program loads.

    Attributes:
        name: on the command line, and of the folder.
        needs: packages without which nothing is written, each with the words that install it.
    """

    @property
    def name(self) -> str:
        """On the command line."""

    @property
    def needs(self) -> Mapping[str, str]:
        """Packages, and how they are installed."""

    def find_refusal(self, source: Source) -> Refusal | None:
        """Why the model cannot be given in this format; None where it can."""

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write what belongs into the folder, which is there.

        Raises:
            ExportError: the model cannot be written after all.
        """

    def build_probe(self, source: Source) -> Probe:
        """What the program is asked of a model."""

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """What a program that loads the folder answers.

        Raises:
            ExportError: it does not load, or fails.
        """


@dataclass(frozen=True)
class FormatBase:
    """What formats share: nothing is needed, and nothing refused."""

    name: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)

    def find_refusal(self, source: Source) -> Refusal | None:
        """None."""
        return None


def check_installed(format: Format) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        MissingExtra: one is.
    """
    for package, command in format.needs.items():
        if find_spec(package) is None:
            raise MissingExtra(f"--format {format.name} needs a package that is not installed; {command}")
