"""What could not be logged, kept in the result folder until it is sent."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from nas.storage.redact import remove_password
from nas.tracking.record import Record, SearchRun
from search_spaces.errors import UsageError

FILE = "mlflow-pending.json"
SCHEMA_VERSION = 1


def create_record(run: SearchRun, uri: str, out: Path) -> Record:
    """A record of a run. One that is pending is replaced and gives it its id: what was sent of it is completed."""
    try:
        earlier = find_pending(out)
    except UsageError:
        earlier = None
    return Record(earlier.id if earlier else uuid.uuid4().hex, int(time.time() * 1000), remove_password(uri), run)


def keep(record: Record, out: Path) -> None:
    """Write it; the file is complete or not there."""
    document = {"schema_version": SCHEMA_VERSION, **record.to_json(out)}
    write_json(out / FILE, document)


def find_pending(out: Path) -> Record | None:
    """What waits to be sent; None where nothing does.

    Raises:
        UsageError: the file is damaged or of another version.
    """
    path = out / FILE
    try:
        document = json.loads(path.read_text())
        if document["schema_version"] != SCHEMA_VERSION:
            raise UsageError(f"{path} was written by another version of nas; send it with that one, or delete it")
        return Record.from_json(document, out)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a record of a search ({error}); delete it") from None


def discard(out: Path) -> None:
    """It was sent."""
    (out / FILE).unlink(missing_ok=True)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file; it is complete or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    draft.replace(path)
