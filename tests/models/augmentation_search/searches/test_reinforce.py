"""The controller that proposes policies."""

import math

import pytest
import torch

from models.augmentation.kinds.autoaugment import AutoAugment, Step
from models.augmentation_search.searches.reinforce import (
    NAMES,
    SIZES,
    Controller,
    Reinforce,
    as_policy,
)


def shares(controller: Controller, operation: str, proposals: int = 20) -> float:
    """How often an operation is proposed, as a share of all steps."""
    steps = [
        step
        for _ in range(proposals)
        for pair in as_policy(controller.propose().choices).policy
        for step in pair
    ]
    return sum(step.operation == operation for step in steps) / len(steps)


def test_choices_are_an_operation_a_probability_and_a_level_of_each_step():
    rotate, invert = NAMES.index("rotate"), NAMES.index("invert")

    policy = as_policy([rotate, 3, 9, invert, 10, 0])

    assert policy == AutoAugment(policy=((Step("rotate", 0.3, 9), Step("invert", 1.0, 0)),))


def test_a_proposal_has_as_many_sub_policies_as_asked_for_and_starts_undecided():
    proposal = Controller(Reinforce(sub_policies=4)).propose()

    assert len(as_policy(proposal.choices).policy) == 4
    undecided = sum(math.log(size) for size in SIZES) / len(SIZES)
    # Small random weights make some choices likelier than others, a little.
    assert proposal.entropy.item() == pytest.approx(undecided, abs=0.05)
    assert proposal.likelihood.item() == pytest.approx(-24 * undecided, rel=0.1)


def test_an_operation_that_is_rewarded_becomes_likelier():
    controller = Controller(Reinforce(sub_policies=2))
    before = shares(controller, "invert")

    for _ in range(60):
        proposal = controller.propose()
        steps = [step for pair in as_policy(proposal.choices).policy for step in pair]
        rewards = [1.0 if step.operation == "invert" else 0.0 for step in steps]
        controller.learn(proposal, sum(rewards))

    assert before < 0.2
    assert shares(controller, "invert") > 0.4


def test_equal_rewards_teach_nothing_but_to_stay_undecided():
    controller = Controller(Reinforce(entropy=0.0))
    before = [parameter.clone() for parameter in controller.parameters()]

    for _ in range(3):
        controller.learn(controller.propose(), -1.5)

    after = list(controller.parameters())
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


def test_the_best_proposal_is_found(grey):
    search, proxy = Reinforce(trials=5, sub_policies=1), grey(views=1)

    trials = list(search.search(proxy))

    result = search.choose(proxy, trials)
    assert result.judged.score == max(trial.judged.score for trial in trials)
    assert result.candidate in [trial.candidate for trial in trials]


@pytest.mark.parametrize(
    "options",
    [{"trials": 0}, {"sub_policies": 0}, {"rate": 0.0}, {"entropy": -1.0}, {"seed": -1}],
)
def test_options_out_of_range_are_refused(options):
    (name,) = options

    with pytest.raises(ValueError, match=name):
        Reinforce(**options)
