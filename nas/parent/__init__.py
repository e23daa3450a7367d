"""The parent model: how it is found and read, and the sizes of its blocks."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "analysis": ["analyse"],
        "analysis_batches": ["estimate_state_bytes", "list_analysis_batches"],
        "parent": ["ParentModel", "compute_weights_digest", "load_parent_model"],
        "running_cost": ["check_memory", "count_bytes", "estimate_peak_bytes", "measure_item_seconds"],
        "shape": ["read_shape"],
        "reference_models": ["DEFAULT", "find_reference", "list_reference_names"],
    },
)
