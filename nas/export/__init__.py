"""From a model in memory to the files that are deployed, each checked against the model."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "cached_export": ["cache_layers"],
        "companions": ["carry_companions"],
        "exported_graphs": ["ExportedGraphs", "Graphs"],
        "exporters": ["EXPORTERS", "ONNX_RUNTIME", "exporter_of"],
        "graph_editing": ["ParentGraph"],
        "images": ["PIXELS"],
        "onnx_export": ["export_onnx", "file_name", "workload_inputs"],
        "parent_export": ["ParentExport"],
        "parity": ["check_parity"],
        "shared_weights": ["SharedWeights"],
        "tensorrt_export": ["build_engine"],
    },
)
