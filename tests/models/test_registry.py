"""Plug-ins found by file name, and the bounds of their options."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.acquisition import strategies as package
from models.acquisition.strategies import strategies
from models.acquisition.strategies.margin import Margin
from models.registry import Registry, plugin_name, require_within


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


def test_a_plug_in_and_its_options_have_the_name_of_its_file():
    assert plugin_name(Margin) == "margin"
    assert plugin_name(Margin()) == "margin"


@dataclass
class Options:
    """One option, which may be left open."""

    rate: float | None


@pytest.mark.parametrize("rate", [0, 0.5, 2, None])
def test_an_option_within_its_bounds_or_left_open_is_taken(rate):
    require_within(Options(rate), "rate", 0, 2)


@pytest.mark.parametrize("rate", [-0.1, 2.1, math.nan, math.inf])
def test_an_option_out_of_its_bounds_is_refused_with_both(rate):
    with pytest.raises(ValueError, match=f"rate must be from 0 to 2, got {rate}"):
        require_within(Options(rate), "rate", 0, 2)


def test_a_lower_bound_may_be_out_itself():
    require_within(Options(1e-9), "rate", 0, 2, exclusive=True)

    with pytest.raises(ValueError, match="rate must be above 0 and at most 2, got 0"):
        require_within(Options(0), "rate", 0, 2, exclusive=True)
