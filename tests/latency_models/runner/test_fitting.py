"""A candidate is measured with the parent's inputs, cut to what its own file asks for."""

import numpy as np

from latency_models.runner.fitting import fit_inputs, fit_shape
from search_spaces.kinds.attention_window import count_held

PAST = np.arange(2 * 4 * 40 * 8, dtype=np.float32).reshape(2, 4, 40, 8)


def test_what_a_file_does_not_ask_for_is_left_out() -> None:
    given = {"ids": np.ones((2, 1)), "past": PAST}
    assert fit_inputs(given, {"past": ("batch", 4, "past", 8), "other": (1,)})["past"] is PAST
    assert fit_inputs(given, {"other": (1,)}) == {}


def test_what_is_no_cache_is_left_to_the_runtime_to_refuse() -> None:
    given = {"ids": np.ones((2, 5))}
    assert fit_inputs(given, {"ids": (2, 6)})["ids"] is given["ids"]


def test_fewer_heads_are_the_first_ones() -> None:
    (fitted,) = fit_inputs({"past": PAST}, {"past": ("batch", 2, "past", 8)}).values()
    assert np.array_equal(fitted, PAST[:, :2])


def test_a_window_holds_what_the_kind_says() -> None:
    axes = ("batch", 4, "sinks_held_16", 8)
    assert fit_shape(PAST.shape, axes) == (2, 4, count_held(16), 8)
    (fitted,) = fit_inputs({"past": PAST}, {"past": axes}).values()
    assert np.array_equal(fitted, PAST[:, :, : count_held(16)])


def test_a_window_that_shows_more_than_there_is_has_places_besides() -> None:
    (fitted,) = fit_inputs({"past": PAST}, {"past": ("batch", 4, "sinks_held_512", 8)}).values()
    assert fitted.shape == (2, 4, 44, 8)
    assert np.array_equal(fitted[:, :, :40], PAST)
    assert not fitted[:, :, 40:].any()
