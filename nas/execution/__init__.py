"""Where evaluations are computed: in this process, or by the workers of a Ray cluster."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "cluster": ["Cluster", "RayExecutor", "connect", "list_offered_resources"],
        "device_node": ["Node"],
        "evaluation_cache": ["CachedEvaluator"],
        "packing": ["Packed", "pack", "unpack"],
        "worker": ["Bench", "LocalExecutor", "Worker"],
    },
)
