"""Speeds of single products: measured, kept by machine, and read again."""

import json

import pytest

from nas.profiling import format_speeds
from nas.profiling.format_speeds import FILE, Product, load_speeds, measure_product
from search_spaces.weight_formats import FORMATS, W2


def test_a_product_is_timed_in_float32_and_in_every_format() -> None:
    readings = measure_product(Product(4, 64, 32))
    assert readings.keys() == {"", *FORMATS, W2.name}
    assert all(0 < ms < 100 for ms in readings.values())


def test_what_was_measured_on_this_machine_is_read_again_and_nothing_else(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(format_speeds, "get_cache_folder", lambda: tmp_path)
    measured: list[Product] = []

    def pretend(product: Product) -> dict[str, float]:
        measured.append(product)
        return dict.fromkeys(("", *FORMATS, W2.name), float(product.outputs))

    monkeypatch.setattr(format_speeds, "measure_product", pretend)
    small, large = Product(1, 64, 32), Product(1, 64, 128)
    assert load_speeds([small, small])[small]["w4"] == 32
    assert load_speeds([small, large])[large]["w4"] == 128
    assert measured == [small, large]
    monkeypatch.setattr(format_speeds, "read_environment", lambda threads: {"device": "another"})
    load_speeds([small])
    assert measured == [small, large, small]
    assert len(json.loads((tmp_path / FILE).read_text())) == 2


def test_what_was_measured_before_a_format_was_known_is_measured_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(format_speeds, "get_cache_folder", lambda: tmp_path)
    product, first = Product(1, 64, 32), dict.fromkeys(("", "w4"), 1.0)
    monkeypatch.setattr(format_speeds, "measure_product", lambda product: first)
    load_speeds([product])
    monkeypatch.setattr(format_speeds, "measure_product", lambda product: dict.fromkeys(("", *FORMATS, W2.name), 2.0))
    assert load_speeds([product])[product][W2.name] == 2.0


@pytest.mark.parametrize("product", [Product(1, 64, 32), Product(256, 64, 32)])
def test_a_product_is_named_by_its_sizes(product: Product) -> None:
    assert str(product) == f"{product.rows}x64x32"
