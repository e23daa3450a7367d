"""Pruned folders for other software: Transformers' Auto classes read them, once their model type is registered.

A folder that lost more than whole blocks has the model type `nas_<family>`, which the Auto classes refuse. After
`register`, what calls them (`AutoModelForCausalLM`, pipelines, Sentence Transformers) gets what `load` gives.
"""

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.models.auto import modeling_auto

from pruning.checkpoint.config import read_document
from pruning.checkpoint.load_save import is_pruned, load
from pruning.checkpoint.rebuilding import PREFIX
from search_spaces.errors import UsageError

_LOADED = ("dtype", "torch_dtype")  # options by which a caller chooses the precision
_REFUSED = ("quantization_config", "device_map", "adapter_name")  # options that would change what is loaded


def register(folder: str | Path) -> str:
    """Let the Auto classes of this process read every pruned folder of the model type that this one has.

    A folder that they read anyway needs nothing.

    Returns:
        The model type.

    Raises:
        ModelError: it is no model folder.

    Example:
        >>> register("OUT/winner")
        'nas_bert'
        >>> model = AutoModel.from_pretrained("OUT/winner")
    """
    folder = Path(folder)
    document = read_document(folder)
    model_type = str(document.get("model_type"))
    if not is_pruned(folder) or not model_type.startswith(PREFIX):
        return model_type
    parent = CONFIG_MAPPING[model_type.removeprefix(PREFIX)]
    if model_type not in CONFIG_MAPPING:
        config = type(f"Pruned{parent.__name__}", (parent,), {"model_type": model_type})
        AutoConfig.register(model_type, config)
    (name,) = document["architectures"]
    for auto in find_auto_classes(parent, name):
        auto.register(CONFIG_MAPPING[model_type], _Whole, exist_ok=True)
    AutoModel.register(CONFIG_MAPPING[model_type], _Trunk, exist_ok=True)
    return model_type


def find_auto_classes(config: Any, name: str) -> list[Any]:
    """The Auto classes that give the class `name` for a family's config."""
    autos = [getattr(modeling_auto, each) for each in dir(modeling_auto) if each.startswith("AutoModelFor")]
    found = []
    for auto in autos:
        made = auto._model_mapping.get(config, ())
        if any(each.__name__ == name for each in (made if isinstance(made, tuple) else (made,))):
            found.append(auto)
    return found


class _Whole:
    """Stands for a class of the library: gives the model of a folder."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, *args: Any, **options: Any) -> Any:
        """The model in a folder.

        Raises:
            UsageError: an option that a pruned model cannot be loaded with.
        """
        for name in _REFUSED:
            if options.get(name) is not None:
                raise UsageError(
                    f"{name}={options[name]!r} with {folder}: a pruned model is loaded as it is, on the CPU; leave it "
                    "out, and move the model with .to(device)"
                )
        dtypes = [options[name] for name in _LOADED if options.get(name) not in (None, "auto")]
        return load(folder, dtypes[0] if dtypes else None, bool(options.get("trust_remote_code")))


class _Trunk(_Whole):
    """Gives the model without its head, as `AutoModel` does."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, *args: Any, **options: Any) -> Any:
        """The trunk of the model in a folder."""
        return super().from_pretrained(folder, *args, **options).base_model
