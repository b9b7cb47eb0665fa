"""The head whose centroids move."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from models.generation.generators import generators
from models.generation.mover import NONE, MovedCentroids, MovedHead, place
from models.heads.kinds.blend import Blend
from tests.models.generation.conftest import made_up_groups
from tests.models.generation.generators.test_generators import QUICK, learned

ZERO = torch.zeros(8)


def mover(*groups: str, weight: float = 0.5):
    weights = tuple(weight if name != NONE else 0.0 for name in groups)
    used = {name: QUICK.get(name, {}) for name in groups if name != NONE}
    options = MovedCentroids(
        groups=groups, weights=weights, options=used, group_count=6, point_count=72
    )
    network = options.network(8)
    for name in used:
        network.targets[name].load_state_dict(learned(name)[0].state_dict())
    return network.eval().requires_grad_(False)


def support(*shots: int):
    groups = made_up_groups(noise=0.8)
    rows = [12 * number + n for number, count in enumerate(shots) for n in range(count)]
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    return groups.points[rows], targets, groups.points


@pytest.mark.parametrize("name", generators)
def test_leaving_an_image_out_equals_refitting_without_it(name):
    head = mover(name, name, name, name).head()
    points, targets, _ = support(1, 2, 4, 7)
    fitted = head.fit(points, targets, 4, ZERO)
    settled = replace(fitted.options, temperature=fitted.temperature)

    left_out = fitted.leave_one_out(points, targets).log_softmax(dim=1)

    for row in range(1, len(points)):  # the first is the only one of its class
        others = torch.arange(len(points)) != row
        refitted = settled.fit(points[others], targets[others], 4, ZERO)
        expected = refitted.probabilities(points[row : row + 1]).log()[0]
        assert torch.allclose(left_out[row].float(), expected, atol=1e-3), row
    assert left_out[0, 0] == -torch.inf


def test_without_a_weight_it_is_blend():
    points, targets, queries = support(1, 2, 4)

    fitted = mover(NONE, NONE, NONE, NONE).head().fit(points, targets, 3, ZERO)

    blend = Blend(centered=True).fit(points, targets, 3, ZERO)
    assert torch.allclose(fitted.probabilities(queries), blend.probabilities(queries), atol=1e-3)


def test_moving_adds_the_cosine_to_the_moved_centroid_less_that_to_the_other():
    points, targets, queries = support(1, 1, 1)
    network = mover("clusters", NONE, NONE, NONE, weight=0.25)
    head = MovedHead(network=network, sharpness=0.5)

    fitted = head.fit(points, targets, 3, ZERO)

    generated = F.normalize(network.targets["clusters"](points, torch.ones(3).long()), dim=1)
    moved = F.normalize(0.75 * points + 0.25 * generated, dim=1)
    blend = Blend(centered=True).fit(points, targets, 3, ZERO)
    expected = blend.scores(queries) / blend.temperature
    expected = expected + (queries @ moved.T - queries @ points.T) / 0.5
    assert torch.allclose(fitted.scores(queries), expected, atol=1e-3)
    assert torch.allclose(fitted.centroids, moved, atol=1e-4)


def test_a_class_is_moved_by_what_suits_its_own_shots():
    network = mover("nearest", NONE, NONE, NONE)
    means, shots = made_up_groups().points[:3], torch.tensor([1, 2, 30])

    moves = network.moves(means, shots)

    assert moves[0].norm() > 0
    assert torch.equal(moves[1:], torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("shots", "number"), [(1, 0), (2, 1), (3, 2), (5, 2), (6, 3), (20, 3), (500, 3)]
)
def test_between_two_numbers_of_shots_the_next_one_counts(shots, number):
    assert place(shots) == number


def test_the_head_is_the_same_each_time_it_is_fitted():
    points, targets, queries = support(1, 2, 5)
    head = mover("cvae", "cvae", "cvae", NONE).head()

    first, second = (head.fit(points, targets, 3, ZERO).scores(queries) for _ in range(2))

    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": (NONE,)}, "needed for each of"),
        ({"groups": (NONE, NONE, NONE, "text")}, "there are no groups 'text'"),
        ({"weights": (0.0, 0.0, 2.0, 0.0)}, "weights must be from 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, message):
    options = {"groups": (NONE,) * 4, "weights": (0.0,) * 4}

    with pytest.raises(ValueError, match=message):
        MovedCentroids(**options | wrong)
