"""An exported file is only as good as its agreement with the model it came from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_models.runtime_ort import default_threads, open_session
from nas.export.onnx_export import example_inputs, input_names
from search_spaces.errors import ExportError

TOLERANCE = 1e-4
SHAPES = ((1, 5), (3, 12))  # other than the traced one, batch 1 among them


@torch.no_grad()
def check_parity(model: Any, path: Path, tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference between file and model over two shapes.

    Raises:
        ExportError: when it exceeds `tolerance` times the size of the outputs (at least 1).
        MeasurementError: when ONNX Runtime refuses the file.
    """
    session, names = open_session(path, default_threads()), input_names(model)
    worst = 0.0
    for batch, sequence in SHAPES:
        inputs = example_inputs(model, batch, sequence, seed=batch)
        fixed = {"use_cache": False} if "position_ids" in names else {}
        expected = model(**inputs, **fixed)[0].numpy()
        wanted = {node.name for node in session.get_inputs()}
        feed = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
        try:
            actual = session.run(None, feed)[0]
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise ExportError(f"{path.name} fails at batch {batch}, sequence {sequence}: {reason}") from error
        if actual.shape != expected.shape:
            raise ExportError(f"{path.name} gives the shape {actual.shape} where the model gives {expected.shape}")
        worst = max(worst, float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max()))))
    if not worst <= tolerance:
        raise ExportError(f"{path.name} differs from the model by {worst:.1e}, above {tolerance:.0e}; do not deploy it")
    return worst
