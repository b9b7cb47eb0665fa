"""What every kind of groups promises."""

import pytest
import torch

from models.generation import Sizes
from models.generation.generators import generators
from tests.models.generation.conftest import made_up_groups

QUICK = {"cvae": {"steps": 100, "width": 16, "latent": 4, "components": 6}}


def learned(name: str, seed: int = 0):
    groups, options = made_up_groups(), generators[name](**QUICK.get(name, {}))
    torch.manual_seed(seed)
    target = options.target(Sizes(8, groups.total, len(groups.points)))
    for _ in options.start(target, groups, seed) or ():
        pass
    return target.requires_grad_(False), groups


@pytest.mark.parametrize("name", generators)
def test_what_is_said_of_a_class_depends_on_no_other(name):
    target, groups = learned(name)
    means, shots = groups.points[[3, 20, 50]], torch.tensor([1, 2, 5])

    together = target(means, shots)

    assert together.shape == means.shape
    for row in range(3):
        alone = target(means[row : row + 1], shots[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", generators)
def test_the_same_seed_says_the_same_bit_for_bit(name):
    (first, groups), (second, _) = learned(name), learned(name)

    answers = [target(groups.points[:4], torch.ones(4).long()) for target in (first, second)]

    assert torch.equal(*answers)


@pytest.mark.parametrize("name", generators)
def test_it_is_loaded_into_one_that_knows_nothing(name):
    target, groups = learned(name)
    empty = generators[name](**QUICK.get(name, {})).target(Sizes(8, 6, 72))

    empty.load_state_dict(target.state_dict())

    means, shots = groups.points[:4], torch.ones(4).long()
    assert torch.equal(empty(means, shots), target(means, shots))


@pytest.mark.parametrize("name", ["clusters", "nearest"])
def test_a_shot_is_moved_towards_the_rest_of_its_group(name):
    target, groups = learned(name)
    sums = torch.zeros(6, 8).index_add_(0, groups.groups, groups.points)
    centres = torch.nn.functional.normalize(sums, dim=1)[groups.groups]

    said = torch.nn.functional.normalize(target(groups.points, torch.ones(72).long()), dim=1)

    assert float((said * centres).sum(1).mean()) > float((groups.points * centres).sum(1).mean())
