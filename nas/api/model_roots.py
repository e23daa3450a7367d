"""Which models and data a client may name: what ships with the tool, and what lies in the folders that were allowed."""

import re
from dataclasses import dataclass
from pathlib import Path

from nas.parent.reference_models import find_reference, list_reference_names
from search_spaces.errors import UsageError

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class ModelRoots:
    """Folders in which models and data may lie, symbolic links resolved; `hub` allows ids of the model hub too.

    Example:
        >>> ModelRoots(hub=True).folders  # ids of the hub and reference models alone
        ()
    """

    folders: tuple[Path, ...] = ()
    hub: bool = False

    @classmethod
    def of(cls, folders: tuple[Path, ...], hub: bool = False) -> "ModelRoots":
        """Those folders.

        Raises:
            UsageError: one is no folder.
        """
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"model root {folder} is no folder; give one that exists")
        return cls(tuple(folder.resolve() for folder in folders), hub)

    def resolve_model(self, text: str) -> str:
        """What `--model` is given: a reference model's name, an absolute path, or a hub id.

        Raises:
            UsageError: it is none that is allowed. Whether something else lies there is not told.
            MissingExtra: a reference model comes with a package that is not installed.
        """
        if text in list_reference_names():
            find_reference(text)
            return text
        path = self._resolve_inside(text)
        if path is not None:
            return str(path)
        if self.hub and _HUB_ID.fullmatch(text) and ".." not in text:
            return text
        hub = "; ids of the hub are not allowed here" if not self.hub else ", nor an id such as owner/name"
        raise UsageError(f"model {text!r} is none of {', '.join(list_reference_names())} and in no model root{hub}")

    def resolve_data(self, text: str) -> str:
        """What `--data` is given: the data of a reference model, or an absolute path.

        Raises:
            UsageError: it is none that is allowed.
            MissingExtra: as for models.
        """
        reference = find_reference(text) if text in list_reference_names() else None
        path = self._resolve_inside(text) if reference is None else reference.data
        if path is None:
            raise UsageError(f"data {text!r} is none of {', '.join(list_reference_names())} and in no model root")
        return str(path)

    def _resolve_inside(self, text: str) -> Path | None:
        """Where a path leads if that is inside one of the folders: absolute, or relative to one of them."""
        if not text.isprintable():
            return None
        for folder in self.folders:
            try:
                path = (folder / text).resolve(strict=True)
            except (OSError, ValueError, RuntimeError):  # nothing there, a name that is none, a loop of links
                continue
            if path != folder and path.is_relative_to(folder):
                return path
        return None
