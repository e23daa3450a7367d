"""From a model in memory to the files that are deployed, each checked against the model."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "quantised_product": ["build_product"],
        "cached_export": ["CacheLayer", "compute_axis_size", "is_past", "name_cache_tensors", "read_cache_layers"],
        "companions": ["carry_companions"],
        "exported_graphs": ["ExportedGraphs", "Graphs"],
        "exporters": ["EXPORTERS", "ONNX_RUNTIME", "Exporter", "find_exporter"],
        "graph_editing": ["ParentGraph"],
        "images": ["check_tower_file"],
        "onnx_export": [
            "LARGEST_FOLDED",
            "ONNX_RUNTIME_OPSET",
            "Exportable",
            "build_file_name",
            "export_onnx",
            "list_input_names",
            "make_example_inputs",
            "make_workload_inputs",
        ],
        "parent_export": ["ParentExport"],
        "parity": ["SHAPES", "TOLERANCE", "Trial", "check_parity", "choose_tolerance", "make_trial_inputs"],
        "shared_weights": ["SharedWeights"],
        "slices": ["choose_check"],
        "tensorrt_export": ["InputRange", "build_engine"],
    },
)
