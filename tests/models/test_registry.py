"""Plug-ins found by file name."""

import pytest

from models.acquisition import strategies
from models.registry import Registry


def test_a_plug_in_is_known_by_the_name_of_its_file():
    assert strategies["margin"].__name__ == "Margin"
    assert list(strategies) == ["entropy", "least_confidence", "margin", "random"]


def test_two_plug_ins_in_one_file_are_refused():
    registry: Registry[type] = Registry("models.acquisition")

    @registry.register
    class First: ...

    class Second: ...

    with pytest.raises(ValueError, match="give each its own file"):
        registry.register(Second)
    assert First in registry.values()
