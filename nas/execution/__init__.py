"""Where evaluations are computed: in this process, or by the workers of a Ray cluster."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "cluster": ["Cluster", "connect", "resources_offered"],
        "device_node": ["Node"],
        "evaluation_cache": ["CachedEvaluator"],
        "worker": ["Bench", "LocalExecutor", "Worker"],
    },
)
