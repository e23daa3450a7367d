"""Checking a file that is too large to be run whole: its first blocks, with embedding and head.

The graph of the written file is cut, not the model exported anew: the cut graph reads the weights of the same file.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latency_models.workload import Phase
from nas.export.exporters import Check
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import LARGEST_INLINE
from nas.export.parity import check_parity, choose_tolerance
from nas.progress import Progress
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.surgery.prune import RECORD, prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import PARTS
from search_spaces.unit import Unit

KEPT = 2  # blocks


def choose_check(model: Any, dtype: torch.dtype, progress: Progress) -> Check:
    """How files of a type are compared with their model: whole, or their first blocks where weights lie beside them."""
    tolerance = choose_tolerance(model, dtype)
    size = sum(tensor.numel() for tensor in model.parameters()) * dtype.itemsize
    if size <= LARGEST_INLINE or hasattr(model.config, RECORD):
        return partial(check_parity, tolerance=tolerance)
    progress.show_message(f"the files hold {size / 1e9:.1f} GB: their first {KEPT} blocks are compared with the model")
    return SliceCheck(read_anatomy(model), tolerance)


@dataclass(frozen=True)
class SliceCheck:
    """Compares what the first blocks of a file compute with what those of its model do.

    Attributes:
        anatomy: of the models that are checked, which are not pruned.
        tolerance: as `check_parity` has it.

    Example:
        >>> difference = SliceCheck(anatomy, 2e-2)(model, Path("model.onnx"), Phase.FORWARD)
    """

    anatomy: Anatomy
    tolerance: float

    def __call__(self, model: Any, path: Path, phase: Phase) -> float:
        """The largest difference, as `check_parity` has it.

        Raises:
            ExportError, MeasurementError: as there, or the graph does not show where its blocks are.
        """
        import onnx

        gone = [Unit(layer, kind) for layer in range(KEPT, self.anatomy.depth) for kind in PARTS]
        architecture = Architecture.parent(self.anatomy.depth).drop(*gone)
        proto = onnx.load(str(path), load_external_data=False)
        cut = ParentGraph.of_proto(proto, self.anatomy, model).edit(architecture)
        file = path.with_name(f"{path.stem}.slice.onnx")
        try:
            onnx.save(cut, str(file))
            pruned = prune(model, architecture, anatomy=self.anatomy, share_weights=True)
            return check_parity(pruned, file, phase, self.tolerance)
        finally:
            file.unlink(missing_ok=True)
