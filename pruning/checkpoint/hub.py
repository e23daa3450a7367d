"""Models of the Hugging Face hub: their config and safetensors in the local cache, and nothing pickled."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pruning.checkpoint.config import get_first_line
from pruning.checkpoint.weight_files import INDEX, WEIGHTS, read_index
from search_spaces.errors import ModelError


def fetch(source: str, trust_remote_code: bool = False) -> Path:
    """The folder of a hub id in the cache, complete with weights.

    Args:
        source: `organisation/name`.
        trust_remote_code: fetch the Python code that the repository carries, too.

    Raises:
        ModelError: it cannot be fetched and is not in the cache.
        UnsafeCheckpoint: its index names other weights than safetensors.
    """
    try:
        folder = Path(snapshot_download(source, allow_patterns=["*.json", *(["*.py"] if trust_remote_code else [])]))
        shards = read_index(folder) if (folder / INDEX).exists() else ()
        return Path(snapshot_download(source, allow_patterns=[WEIGHTS, *shards]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {source!r} is no folder here and cannot be fetched from the hub ({get_first_line(error)})"
        ) from error
