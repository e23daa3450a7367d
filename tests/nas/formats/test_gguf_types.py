"""Blocks of few bits beside the quantisers of the gguf package, and what is read back of a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.formats.gguf_types import check_written, pack_matrix
from pruning.surgery.quantised_linear import round_weights
from search_spaces.errors import ExportError
from search_spaces.weight_formats import FORMATS

gguf = pytest.importorskip("gguf", reason="files for llama.cpp need nas[gguf]")
MATRIX = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))


def test_four_bits_are_those_that_the_package_makes() -> None:
    theirs = gguf.quants.quantize(MATRIX.numpy(), gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(pack_matrix(MATRIX, FORMATS["w4"]), theirs)


@pytest.mark.parametrize(("name", "kind"), [("w4", "Q4_0"), ("w8", "Q8_0")])
def test_what_is_read_is_what_the_search_chose(name: str, kind: str) -> None:
    packed = pack_matrix(MATRIX, FORMATS[name])
    read = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])
    chosen = round_weights(MATRIX, FORMATS[name]).numpy()
    assert np.abs(read - chosen).max() < 1e-3 * np.abs(chosen).max()  # scales in half precision
    assert np.abs(read - MATRIX.numpy()).max() > 1e-3 * np.abs(chosen).max()


def test_one_row_by_hand() -> None:
    row = torch.zeros(1, 32)
    row[0, 0], row[0, 1], row[0, 17] = -8.0, 7.0, 3.0
    packed = pack_matrix(row, FORMATS["w4"])[0]
    assert packed[:2].view(np.float16)[0] == 1.0
    assert [int(value) for value in packed[2:4]] == [0 | 8 << 4, 15 | 11 << 4]  # weights 0 and 16, 1 and 17


def test_a_file_with_other_values_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor("a", MATRIX.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_written(path, {"a": MATRIX}, {})
    with pytest.raises(ExportError, match="a is not what the model multiplies with"):
        check_written(path, {"a": MATRIX + 1e-6}, {})
    with pytest.raises(ExportError, match="other tensors"):
        check_written(path, {"b": MATRIX}, {})
