"""Builds the engines of the graphs in this folder with TensorRT 10, 11 or RTX, and needs nothing else.

    python build_engine.py [--compute-capability SM89]

Precision comes from the graphs. `shapes.json` has the least, usual and largest shape of every input. `timing.cache` is
read where it is there and brought up to date, so that engines of variants are built faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

_MODULES = ("tensorrt", "tensorrt_rtx")
_WORKSPACE = 1 << 30  # bytes
_TIMING, _SHAPES = "timing.cache", "shapes.json"


def find_module() -> Any:
    """The TensorRT that is installed."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    sys.exit(f"none of {', '.join(_MODULES)} can be imported; install one on the device")


def build(trt: Any, graph: Path, shapes: dict[str, Any], capability: str | None) -> bytes:
    """The engine of a graph."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        sys.exit(f"{graph.name} is refused: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    profile = builder.create_optimization_profile()
    for name, sizes in shapes.items():
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    kept = graph.with_name(_TIMING)
    if hasattr(config, "create_timing_cache"):
        config.set_timing_cache(config.create_timing_cache(kept.read_bytes() if kept.exists() else b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit(f"no engine was built from {graph.name}; see the messages above")
    if hasattr(config, "get_timing_cache") and (timing := config.get_timing_cache()) is not None:
        kept.write_bytes(bytes(timing.serialize()))
    return bytes(plan)


def main() -> None:
    """Build an engine for every graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute-capability", help="build for a GPU that is not here, as SM89 (RTX only)")
    options = parser.parse_args()
    trt, folder = find_module(), Path(__file__).parent
    for name, shapes in json.loads((folder / _SHAPES).read_text()).items():
        engine = (folder / name).with_suffix(".engine")
        engine.write_bytes(build(trt, folder / name, shapes, options.compute_capability))
        print(f"{engine.name}: {engine.stat().st_size / 1e6:.1f} MB, {trt.__name__} {trt.__version__}")


if __name__ == "__main__":
    main()
