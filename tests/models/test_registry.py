"""Plug-ins found by file name."""

from pathlib import Path

import pytest

from models.acquisition import strategies as package
from models.acquisition.strategies import strategies
from models.registry import Registry


def test_a_plug_in_is_known_by_the_name_of_its_file():
    assert strategies["margin"].__name__ == "Margin"
    files = Path(package.__file__).parent.glob("[!_]*.py")
    assert list(strategies) == sorted(file.stem for file in files)


def test_two_plug_ins_in_one_file_are_refused():
    registry: Registry[type] = Registry("models.acquisition.strategies")

    @registry.register
    class First: ...

    class Second: ...

    with pytest.raises(ValueError, match="give each its own file"):
        registry.register(Second)
    assert First in registry.values()
