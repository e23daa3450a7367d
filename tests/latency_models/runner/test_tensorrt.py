"""Engines are built here without a GPU; that they run is for a device to show."""

# ruff: noqa: N802 - the driver names its functions so
import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
from chains import INPUTS, chain

from latency_models.runner.cuda import Cuda
from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.runtime import find_runtime
from latency_models.runner.tensorrt import Execution, build_engine, compute_engine_digest, find_module, fix_shapes


@pytest.mark.filterwarnings("ignore")
def test_an_engine_is_built_for_the_shapes_it_is_measured_with(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    assert find_module().__name__ in ("tensorrt", "tensorrt_rtx")
    timing = tmp_path / "timing"
    built = build_engine(trt, chain(tmp_path / "a.onnx", 3), fix_shapes(INPUTS), timing=timing, capability="SM89")
    assert len(built) > 1000
    assert timing.exists()
    again = build_engine(trt, chain(tmp_path / "b.onnx", 4), fix_shapes(INPUTS), timing=timing, capability="SM89")
    assert len(again) > 1000
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(MeasuringFailed, match=r"TensorRT refuses broken\.onnx"):
        build_engine(trt, tmp_path / "broken.onnx", fix_shapes(INPUTS), capability="SM89")
    with pytest.raises(MeasuringFailed, match="the input 'x' is not among"):
        build_engine(trt, tmp_path / "a.onnx", fix_shapes({}), capability="SM89")


def test_an_engine_is_kept_under_everything_it_depends_on(tmp_path: Path) -> None:
    class Module:
        __name__, __version__ = "tensorrt", "10.3.0"

    class Newer(Module):
        __version__ = "11.4.1"

    file = chain(tmp_path / "one/a.onnx", 2)
    other, beside = chain(tmp_path / "two/a.onnx", 3), chain(tmp_path / "three/a.onnx", 2)
    (beside.parent / "weights.data").write_bytes(b"1")
    digests = [
        compute_engine_digest(Module(), file, INPUTS, "Orin"),
        compute_engine_digest(Module(), other, INPUTS, "Orin"),
        compute_engine_digest(Module(), beside, INPUTS, "Orin"),
        compute_engine_digest(Newer(), file, INPUTS, "Orin"),
        compute_engine_digest(Module(), file, {"x": INPUTS["x"][:1]}, "Orin"),
        compute_engine_digest(Module(), file, INPUTS, "Thor"),
    ]
    assert len(set(digests)) == len(digests)
    same = chain(tmp_path / "four/b.onnx", 2)
    assert compute_engine_digest(Module(), same, INPUTS, "Orin") == digests[0]


def test_tensorrt_without_a_gpu_is_refused_and_found_last(tmp_path: Path) -> None:
    try:
        Cuda()
    except OSError:
        pass
    else:
        pytest.skip("there is a GPU here")
    with pytest.raises(MeasuringFailed, match=r"needs an NVIDIA GPU|cannot be imported"):
        find_runtime("tensorrt", None, "fp16", None, tmp_path)
    assert "CPUExecutionProvider" in find_runtime(None, None, "fp32", 1, tmp_path).read_key()["runtime"]


class Driver:
    """Stands in for libcuda: memory is a dictionary."""

    def __init__(self) -> None:
        self.memory: dict[int, bytes] = {}
        self.fresh = itertools.count()

    def cuDeviceGetName(self, text, size, device) -> int:
        text.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0

    def cuMemAlloc_v2(self, address, size) -> int:
        address._obj.value = 2**40 + next(self.fresh)
        self.memory[address._obj.value] = bytes(size.value)
        return 0

    def cuMemcpyHtoD_v2(self, address, source, size) -> int:
        assert len(self.memory[address.value]) == size.value
        self.memory[address.value] = ctypes.string_at(source, size.value)
        return 0

    def cuMemFree_v2(self, address) -> int:
        return 0 if self.memory.pop(address.value, None) is not None else 1

    def __getattr__(self, name: str):
        return lambda *arguments: 0


def test_arrays_reach_the_gpu_whole_and_errors_are_raised() -> None:
    driver = Driver()
    cuda, array = Cuda(driver), np.arange(12, dtype=np.int64).reshape(3, 4)
    assert cuda.read_name() == "Orin (sm_87)"
    address = cuda.upload(array)
    assert np.array_equal(np.frombuffer(driver.memory[address], np.int64).reshape(3, 4), array)
    cuda.free(address)
    with pytest.raises(OSError, match="cuMemFree_v2 answered 1"):
        cuda.free(address)


class Engine:
    """Stands in for an engine that doubles `past.ids`, and for its context; `memory` is that of the driver."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.shapes, self.addresses = driver, {}, {}
        self.num_io_tensors, self.built_for = 2, (2, 3)

    def create_execution_context(self) -> "Engine":
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("past.ids", "doubled")[index]

    def get_tensor_mode(self, name: str) -> str:
        return {"past.ids": "input", "doubled": "output"}[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "int32"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [self.built_for] * 3

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def get_max_output_size(self, name: str) -> int:
        return 4 * int(np.prod(self.shapes["past.ids"]))

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        ids = np.frombuffer(self.driver.memory[self.addresses["past.ids"]], np.int32)
        assert len(self.driver.memory[self.addresses["doubled"]]) == ids.nbytes
        self.driver.memory[self.addresses["doubled"]] = (2 * ids).tobytes()
        return ids[0] == 0


class Interface:
    class TensorIOMode:
        INPUT = "input"

    nptype = staticmethod(np.dtype)


def test_an_engine_is_given_what_it_declares_and_its_memory_is_given_back() -> None:
    driver = Driver()
    engine, ids = Engine(driver), np.arange(6, dtype=np.int64).reshape(2, 3)
    execution = Execution(Interface, Cuda(driver), engine, {"past.ids": ids, "unused": ids})
    execution.run()
    assert engine.shapes == {"past.ids": (2, 3)}
    assert np.frombuffer(driver.memory[engine.addresses["doubled"]], np.int32).tolist() == [0, 2, 4, 6, 8, 10]
    refusing = Execution(Interface, Cuda(driver), Engine(driver), {"past.ids": ids + 1})
    with pytest.raises(MeasuringFailed, match="the engine cannot be run"):
        refusing.run()
    del execution, refusing
    assert not driver.memory


def test_inputs_are_cut_to_what_an_engine_was_built_for() -> None:
    """A candidate's cache may hold less than the parent's."""
    driver = Driver()
    engine = Engine(driver)
    engine.built_for = (2, 2)
    execution = Execution(Interface, Cuda(driver), engine, {"past.ids": np.arange(6, dtype=np.int64).reshape(2, 3)})
    execution.run()
    assert engine.shapes == {"past.ids": (2, 2)}
    assert np.frombuffer(driver.memory[engine.addresses["doubled"]], np.int32).tolist() == [0, 2, 6, 8]
