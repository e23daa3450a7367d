"""The words of a request are those that the code behind them knows."""

import subprocess
import sys

from nas.quality.precision import Precision
from nas.request import choices
from nas.search.methods import METHODS, TOKEN_METHODS, WIDTH_METHODS
from nas.search.problem import ENGINE


def test_the_names_of_methods_are_those_of_the_registries() -> None:
    assert tuple(METHODS) == choices.METHODS
    assert tuple(TOKEN_METHODS) == choices.TOKEN_METHODS
    assert tuple(WIDTH_METHODS) == choices.WIDTH_METHODS
    assert choices.ENGINE == ENGINE
    assert tuple(Precision) == choices.ARITHMETIC


def test_it_is_read_without_torch() -> None:
    modules = "nas.request.choices, nas.request.search_request, nas.profiling.profile_store"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
