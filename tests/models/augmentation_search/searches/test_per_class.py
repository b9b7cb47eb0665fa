"""Crop strengths for single classes."""

from dataclasses import replace

import pytest
import torch

from models.augmentation.kinds.geometric import Geometric
from models.augmentation_search.candidates import PolicyCandidate
from models.augmentation_search.searches.per_class import PerClass, doubt

STRONG = Geometric(crop=0.15, flip=0.0, degrees=0.0, ratio=1.0)


def test_the_class_that_takes_images_of_another_gets_a_weaker_crop(framed):
    search, proxy = PerClass(geometric=STRONG), framed()

    result = search.choose(proxy, list(search.search(proxy)))

    before = proxy.judge(PolicyCandidate((STRONG,)))
    absorbed = (before.predicted == 0) & (proxy.targets == 1)
    assert absorbed.sum() >= 5  # the harm that was planted
    ((label, (policy,)),) = result.candidate.per_class
    assert label == 0  # not the victim, class 1
    assert isinstance(policy, Geometric)
    assert policy.crop > STRONG.crop
    assert result.candidate.policy == (STRONG,)
    assert result.verdict.better
    assert result.verdict.accuracy > result.verdict.before
    recalled = (result.judged.predicted == 1)[proxy.targets == 1].float().mean()
    assert recalled > 0.9


def test_without_harm_all_classes_keep_the_default(framed):
    search, proxy = PerClass(geometric=Geometric(crop=0.75)), framed(frame=0.0)

    result = search.choose(proxy, list(search.search(proxy)))

    assert result.candidate == PolicyCandidate((Geometric(crop=0.75),))
    assert not result.verdict.better
    assert "the false positives of no class" in result.verdict.reason


def test_the_default_crop_is_tried_as_well_and_what_is_proposed_comes_last(framed):
    trials = list(PerClass(crops=(1.0, 0.3), geometric=STRONG).search(framed()))

    policies = [trial.candidate.policy for trial in trials]
    assert policies == [(replace(STRONG, crop=crop),) for crop in (1.0, 0.3, 0.15, 0.15)]
    assert [bool(trial.candidate.per_class) for trial in trials] == [False, False, False, True]


def test_an_interrupted_search_proposes_the_same_again(framed):
    search, before, later = PerClass(geometric=STRONG), framed(views=1), framed(views=1)
    expected = list(search.search(before))

    later.load(before.state())
    trials = list(search.search(later))

    assert expected[-1].candidate.per_class
    assert trials[-1].candidate == expected[-1].candidate
    assert search.choose(later, trials).verdict == search.choose(before, expected).verdict


def test_doubt_is_the_share_of_draws_without_a_gain():
    # Three gains among many images: none is drawn with a probability of e^-3.
    assert doubt(torch.tensor([1.0] * 3 + [0.0] * 97)) == pytest.approx(0.05, abs=0.015)
    assert doubt(torch.zeros(10)) == 1.0
    assert doubt(torch.ones(10)) == 0.0


@pytest.mark.parametrize("crops", [(), (0.0,), (0.5, 1.5), (0.5,) * 21])
def test_crops_out_of_range_are_refused(crops):
    with pytest.raises(ValueError, match="crop"):
        PerClass(crops=crops)
