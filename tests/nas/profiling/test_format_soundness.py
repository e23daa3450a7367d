"""Whether products in a format are right here: by another product, of whole numbers alone."""

from eight_bits import saturates

from nas.profiling.format_soundness import multiplies_rightly


def test_formats_with_blocks_are_right_everywhere() -> None:
    assert multiplies_rightly("w8")
    assert multiplies_rightly("w4")


def test_int8_is_right_where_the_runtime_s_products_of_whole_numbers_are() -> None:
    assert multiplies_rightly("int8") is not saturates()
