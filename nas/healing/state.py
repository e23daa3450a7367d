"""What a run of training needs to go on where it was killed, in one file that is complete or as it was before."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_spaces.errors import UsageError

SCHEMA_VERSION = 2


@dataclass
class TrainingState:
    """Where a run is. The order of the items follows from seed and step, so that no random generator is part of it.

    Attributes:
        steps: that there will be.
        done: that were made.
        tokens: that were seen, or images.
        seconds: that it took so far.
        weights, best: the trained ones by name, as they are and as they were at the lowest held-out loss.
        best_step, best_loss: when that was, and what it was.
        history: of all evaluations the step and the held-out loss; where that led back to the best weights, theirs too.
        losses: of all steps their number from 1, the training loss and the learning rate.
        optimiser: its state.
        rate_scale: what the recipe's learning rate is multiplied by.
    """

    steps: int
    done: int = 0
    tokens: int = 0
    seconds: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = float("inf")
    history: list[tuple[int, float]] = field(default_factory=list)
    losses: list[tuple[int, float, float]] = field(default_factory=list)
    optimiser: dict[str, Any] = field(default_factory=dict)
    rate_scale: float = 1.0

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write the file.

        Args:
            identity: of what is trained and how, by which `load_state` knows it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.draft")
        torch.save({"schema_version": SCHEMA_VERSION, "identity": identity, "state": vars(self)}, draft)
        draft.replace(path)


def load_state(path: Path) -> tuple[dict[str, Any], TrainingState] | None:
    """The identity and the state in a file; None where there is no file.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    if not path.exists():
        return None
    try:
        document = torch.load(path, weights_only=True, map_location="cpu")  # tensors and plain values: no code is run
        if document["schema_version"] != SCHEMA_VERSION:
            raise UsageError(f"{path} was written by another version of nas; delete it and heal again")
        return document["identity"], TrainingState(**document["state"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path} cannot be read ({reason}); delete it and heal again") from None
