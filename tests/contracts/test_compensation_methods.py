"""Every registered closed form passes the contract."""

import pytest
from compensation_method import CompensationMethodContract

from nas.request.choices import AUTO, COMPENSATIONS
from pruning.compensation.method import DRAFT, METHODS


class TestBias(CompensationMethodContract):
    method = METHODS["bias"]


class TestRefit(CompensationMethodContract):
    method = METHODS["refit"]


class TestMerge(CompensationMethodContract):
    method = METHODS["merge"]


class TestAuto(CompensationMethodContract):
    method = METHODS["auto"]


def test_a_request_knows_the_same_names() -> None:
    assert {AUTO, *COMPENSATIONS} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_each_is_registered_under_its_name(name: str) -> None:
    assert METHODS[name].name == name


class TestDamped(CompensationMethodContract):
    method = DRAFT
