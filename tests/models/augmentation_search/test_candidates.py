"""What to augment with, as plain JSON and as a text."""

from models.augmentation.kinds.mixup import Mixup
from models.augmentation.kinds.noise import Noise
from models.augmentation_search.candidates import (
    NOTHING,
    PolicyCandidate,
    describe,
    documents,
)


def test_a_policy_is_named_by_its_augmentations_and_their_options():
    assert documents((Mixup(alpha=0.5), Noise(deviation=0.1))) == [
        {"name": "mixup", "options": {"alpha": 0.5}},
        {"name": "noise", "options": {"deviation": 0.1}},
    ]


def test_only_equal_candidates_share_a_text():
    noise, more_noise = (Noise(deviation=0.1),), (Noise(deviation=0.2),)
    candidates = [
        NOTHING,
        PolicyCandidate(noise),
        PolicyCandidate(more_noise),
        PolicyCandidate(noise, ((0, ()),)),
        PolicyCandidate(noise, ((1, ()),)),
        PolicyCandidate(noise, ((0, more_noise),)),
    ]

    assert len({describe(candidate) for candidate in candidates}) == len(candidates)
    assert describe(PolicyCandidate((Noise(deviation=0.1),))) == describe(candidates[1])
