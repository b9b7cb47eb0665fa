"""RandAugment's numbers by trying all."""

import pytest

from models.augmentation.kinds.randaugment import RandAugment
from models.augmentation_search.searches.grid import Grid


def test_every_pair_is_tried_once(grey):
    trials = list(Grid(n=(1, 3), m=(2.0, 5.0)).search(grey()))

    assert [trial.candidate.policy for trial in trials] == [
        (RandAugment(n=1, m=2.0),),
        (RandAugment(n=1, m=5.0),),
        (RandAugment(n=3, m=2.0),),
        (RandAugment(n=3, m=5.0),),
    ]


@pytest.mark.parametrize("seed", range(2))
def test_a_strength_that_leaves_classes_alone_is_preferred_to_one_that_mixes_them(grey, seed):
    search, proxy = Grid(n=(1, 3), m=(0.5, 10.0)), grey(32, seed=seed)

    result = search.choose(proxy, list(search.search(proxy)))

    assert result.candidate.policy == (RandAugment(n=1, m=0.5),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": ()}, "1 to 100 pairs, got 0"),
        ({"n": (0,)}, "n must be from 1"),
        ({"m": (3.0, 11.0)}, "m must be above 0"),
        ({"n": (1,) * 11, "m": (1.0,) * 10}, "1 to 100 pairs, got 110"),
    ],
)
def test_numbers_that_randaugment_would_refuse_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        Grid(**options)
