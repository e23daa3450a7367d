"""Who takes part in a tournament and how far it is, in a file that is complete or as it was before."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.healing.rungs import Rung
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError

FILE = "tournament.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TournamentRecord:
    """A tournament as it is kept.

    Attributes:
        identity: of all that it depends on besides the finalists, by which it is known again.
        architectures: of the finalists.
        rungs: those that have begun.
    """

    identity: dict[str, Any]
    architectures: tuple[Architecture, ...]
    rungs: tuple[Rung, ...] = ()

    def save(self, folder: Path) -> None:
        """Write it."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "identity": self.identity,
            "finalists": [architecture.to_json() for architecture in self.architectures],
            "rungs": [rung.to_json() for rung in self.rungs],
        }
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{FILE}.draft"
        draft.write_text(json.dumps(document, indent=1) + "\n")
        draft.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "TournamentRecord | None":
        """The tournament of a folder; None where there is none, or one of another version.

        Raises:
            UsageError: the file is damaged.
        """
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            if document["schema_version"] != SCHEMA_VERSION:
                return None
            architectures = tuple(Architecture.from_json(each) for each in document["finalists"])
            return cls(document["identity"], architectures, tuple(map(Rung.from_json, document["rungs"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} cannot be read ({error}); delete {folder} and resume") from None
