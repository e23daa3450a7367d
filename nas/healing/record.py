"""What a healing left: how good the model was and is, and all that it depends on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.healing.recipe import Recipe
from nas.quality.quality import Quality
from search_spaces.errors import UsageError

FILE = "healing.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Healed:
    """A finished healing. Qualities are of the test split.

    Attributes:
        as_dropped: the winner before anything was adjusted; None where the search does not say.
        compensated: as the search delivered it, adjusted in closed form; None where it was not.
        comparison: of the healed model with the one it was made from.
        history: of every evaluation on the validation split the step and the loss.
        best_step: whose weights were kept; 0 are those that it began with.
        steps: that were made; fewer than `planned_steps` where it ended early.
        planned_steps: what the recipe asks for, or what its minutes were made of.
        tokens_seen: in training, repeated ones included; images where the model takes these.
        seconds: of training.
        recipe: as it was asked for.
        data: digest of the items that were trained on, and how many there are.
        parent, winner: digests of their weights.
        files: of every exported file the largest difference to the model.
        versions: of the packages.
        mlflow: where it was logged, as `log_search` says it; empty before.

    Example:
        >>> healed = Healed.load(Path("out/healed"))
        >>> loss = None if healed is None else healed.healed.loss
    """

    as_dropped: Quality | None
    compensated: Quality | None
    healed: Quality
    comparison: dict[str, Any]
    history: tuple[tuple[int, float], ...]
    best_step: int
    steps: int
    planned_steps: int
    tokens_seen: int
    seconds: float
    recipe: Recipe
    data: dict[str, Any]
    parent: str
    winner: str
    files: dict[str, float]
    versions: dict[str, str]
    mlflow: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that is written and printed."""
        named = {"as_dropped": self.as_dropped, "compensated": self.compensated, "healed": self.healed}
        plain = (
            "comparison", "best_step", "steps", "planned_steps", "tokens_seen", "seconds", "data", "parent", "winner",
            "files", "versions", "mlflow",
        )  # fmt: skip
        return {
            "schema_version": SCHEMA_VERSION,
            "quality": {name: None if quality is None else quality.to_json() for name, quality in named.items()},
            "history": [list(pair) for pair in self.history],
            "recipe": self.recipe.to_json(),
            **{name: getattr(self, name) for name in plain},
        }

    def save(self, folder: Path) -> None:
        """Write `healing.json`; it is complete or not there."""
        draft = folder / f"{FILE}.draft"
        draft.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        draft.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Healed | None":
        """The healing whose folder this is; None where there is none.

        Raises:
            UsageError: its record is damaged or of another version.
        """
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            if document.pop("schema_version") != SCHEMA_VERSION:
                raise UsageError(f"{path} was written by another version of nas; delete {folder} and heal again")
            read: dict[str, Any] = {
                name: value and Quality.from_json(value) for name, value in document.pop("quality").items()
            }
            history = tuple((int(step), float(loss)) for step, loss in document.pop("history"))
            return cls(**read, history=history, recipe=Recipe(**document.pop("recipe")), **document)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is not the record of a healing ({error}); delete {folder} and heal again"
            ) from None
