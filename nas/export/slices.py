"""Checking a file that is too large to be run whole: its first blocks, with embedding and head.

The graph of the written file is cut, not the model exported anew: the cut graph reads the weights of the same file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.graph_editing import ParentGraph
from nas.export.parity import check_parity
from pruning.anatomy.anatomy import Anatomy
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import PARTS
from search_spaces.unit import Unit

KEPT = 2  # blocks


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
