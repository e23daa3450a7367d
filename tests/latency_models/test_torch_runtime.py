"""PyTorch on the CPU goes through the same protocol; what it times is the module."""

import pytest
import torch
from torch import nn

from latency_models.torch_runtime import TorchRuntime, measure_modules
from latency_models.workload import Workload
from search_spaces.errors import MeasurementError

HERE = Workload.parse("forward:batch=1,seq=64")


class Chain(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.eye(192) * (1 + i) for i in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = x @ weight
        return x


def test_modules_are_measured_side_by_side() -> None:
    x, threads = torch.randn(64, 192), torch.get_num_threads()
    runtime = TorchRuntime(threads=1)
    assert torch.equal(runtime.load(Chain(3), {"x": x})(), x * 6)
    modules = {"short": Chain(2), "long": Chain(40)}
    taken = measure_modules(runtime, modules, {"x": x}, HERE, sentinel="long", seconds=0.1, least_rounds=20)
    assert taken["short"].ratio() < 0.5 < taken["long"].ratio() == 1.0
    assert len(taken["short"].samples_ms) >= 20
    assert torch.get_num_threads() == threads


def test_its_key_is_not_that_of_another_runtime_or_precision() -> None:
    key = TorchRuntime(threads=1).key()
    assert set(key) == {"device", "runtime", "precision", "threads", "power_mode"}
    assert key["runtime"].startswith(f"torch {torch.__version__}")
    assert TorchRuntime(dtype=torch.bfloat16).key()["precision"] == "bf16"
    assert key != TorchRuntime(threads=2).key()


def test_what_cannot_be_measured_is_one_clear_error() -> None:
    with pytest.raises(MeasurementError, match="cannot measure on 'npu' here; use cpu"):
        TorchRuntime("npu")
    if not torch.cuda.is_available():
        with pytest.raises(MeasurementError, match="cannot measure on 'cuda' here"):
            TorchRuntime("cuda")
    with pytest.raises(MeasurementError, match=r"^a cannot be run"):
        measure_modules(TorchRuntime(), {"a": Chain(1)}, {"x": torch.ones(5)}, HERE, sentinel="a", seconds=0.1)
