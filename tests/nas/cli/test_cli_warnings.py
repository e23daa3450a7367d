"""What a checkpoint holds beside the model is one line for a person; warnings of libraries stay as they are."""

import warnings

import pytest

from nas.cli.app import _print_own_warnings
from search_spaces.errors import UnusedWeights


def test_our_own_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        _print_own_warnings()
        warnings.warn("some library's", DeprecationWarning, stacklevel=1)
        warnings.warn("model holds 2 weights that it does not use", UnusedWeights, stacklevel=1)
    assert capsys.readouterr().err == "nas: model holds 2 weights that it does not use\n"
    assert [str(each.message) for each in others] == ["some library's"]
