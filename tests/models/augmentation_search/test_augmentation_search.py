"""What every search promises, and the proxy that judges for them."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Generator
from torch.nn import functional as F

from models.augmentation.kinds.autoaugment import AutoAugment
from models.augmentation.kinds.geometric import Geometric
from models.augmentation_search import (
    NOTHING,
    PRIOR_VARIANCE,
    PolicyCandidate,
    Proxy,
    Search,
    balanced,
    describe,
    documents,
    fit,
)
from models.augmentation_search.searches import searches
from models.training.checkpoint import pack, unpack

SMALL = {
    "grid": {"n": (1,), "m": (3.0, 6.0, 9.0)},
    "reinforce": {"trials": 3, "sub_policies": 2},
    "per_class": {"crops": (1.0, 0.3)},
}


@pytest.fixture(params=searches)
def search(request) -> Search:
    return searches[request.param](**SMALL.get(request.param, {}))


def told(trials) -> list[tuple[int, int, str, float, float]]:
    return [
        (t.number, t.of, describe(t.candidate), t.judged.score, t.judged.accuracy) for t in trials
    ]


def count_embedded(encoder) -> list[int]:
    """How many images each pass of an encoder will have embedded."""
    counts: list[int] = []
    encoder.register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    return counts


def test_trials_count_from_one_to_all_and_have_finite_scores(search, grey):
    trials = list(search.search(grey()))

    assert [trial.number for trial in trials] == list(range(1, trials[0].of + 1))
    assert len({trial.of for trial in trials}) == 1
    assert all(trial.judged.score < 0 for trial in trials)
    assert all(0 <= trial.judged.accuracy <= 1 for trial in trials)


def test_the_same_search_goes_the_same_way(search, grey):
    first, second = (list(search.search(grey())) for _ in range(2))

    assert told(first) == told(second)


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_search_goes_on_and_ends_as_if_it_had_not_been(search, grey, after):
    whole, before, later = grey(views=1), grey(views=1), grey(views=1)
    expected = list(search.search(whole))
    for _, _ in zip(range(after), search.search(before), strict=False):
        state = unpack(pack(before.state()))

    later.load(state)
    trials = list(search.search(later))

    assert told(trials) == told(expected)
    one, other = search.choose(whole, expected), search.choose(later, trials)
    assert one.candidate == other.candidate
    assert one.verdict == other.verdict


def test_a_finished_search_is_gone_through_without_embedding(search, grey, encoder):
    before, later = grey(), grey()
    expected = list(search.search(before))
    later.load(unpack(pack(before.state())))
    counts = count_embedded(encoder)

    trials = list(search.search(later))

    assert told(trials) == told(expected)
    assert counts == []


def test_chance_elsewhere_is_not_touched(search, grey):
    before = torch.get_rng_state()

    proxy = grey()
    search.choose(proxy, list(search.search(proxy)))

    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_found_was_tried_or_is_the_default(search, grey):
    proxy = grey()
    trials = list(search.search(proxy))

    found = search.choose(proxy, trials)

    assert found.candidate in [trial.candidate for trial in trials]
    assert found.verdict.accuracy == pytest.approx(float(found.right.mean()))
    named = documents(found.candidate.policy)
    assert [set(one) for one in named] == [{"name", "options"}]


def test_an_augmentation_that_turns_a_class_into_another_lowers_the_score(encoder, noisy):
    targets = torch.arange(40) % 2
    pictures = torch.full((40, 3, 16, 16), 0.5)
    pictures[targets == 0, :, :4] = 0.9  # bright above
    pictures[targets == 1, :, -4:] = 0.9  # bright below
    proxy = Proxy(encoder, noisy(pictures, 0.2), targets)
    still = Geometric(crop=1.0, ratio=1.0, flip=0.5, degrees=0.0)
    turned = Geometric(crop=1.0, ratio=1.0, flip=0.5, flip_vertical=0.5, degrees=0.0)

    harmless, harmful = (proxy.judge(PolicyCandidate((policy,))) for policy in (still, turned))

    assert harmful.score < proxy.judge(NOTHING).score
    assert harmful.score < harmless.score


def test_a_class_with_its_own_policy_differs_by_that_alone(grey):
    proxy = grey()
    crop, other = (Geometric(crop=0.3),), (Geometric(crop=0.9),)

    mixed = PolicyCandidate(crop, ((1, other),))

    assert torch.equal(
        proxy.judge(PolicyCandidate(crop, ((0, other), (1, other)))).likelihood,
        proxy.judge(PolicyCandidate(other)).likelihood,
    )
    assert torch.equal(
        proxy.judge(PolicyCandidate(crop, ((0, crop),))).likelihood,
        proxy.judge(PolicyCandidate(crop)).likelihood,
    )
    assert not torch.equal(
        proxy.judge(mixed).likelihood, proxy.judge(PolicyCandidate(other)).likelihood
    )


def test_operations_are_embedded_as_the_augmentation_would_apply_them(grey, encoder):
    proxy = grey(32)
    augmentation = AutoAugment(policy="cifar10")

    chained = proxy._chained((augmentation,), 1)

    values = proxy._values(torch.arange(32))
    changed, _ = augmentation(values, F.one_hot(proxy.targets).float(), Generator().manual_seed(1))
    # Rounding of embeddings, in another order of addition.
    assert torch.allclose(chained, proxy._reduce(proxy._embed(changed)), atol=1e-5)


def test_nothing_is_embedded_twice(grey, encoder):
    counts = count_embedded(encoder)
    proxy = grey(32, views=2)

    proxy.judge(PolicyCandidate((Geometric(crop=0.5),)))
    once = sum(counts)
    proxy.judge(PolicyCandidate((Geometric(crop=0.5),), ((0, ()),)))
    crops = sum(counts)
    proxy.judge(PolicyCandidate((AutoAugment(policy="svhn"),)))
    operations = sum(counts)
    proxy.judge(PolicyCandidate((AutoAugment(policy="svhn"),), ((0, ()),)))

    assert once == crops == 32 + 2 * 32  # clean, and two views
    assert crops < operations <= crops + 2 * 32
    assert sum(counts) == operations


def test_images_are_drawn_from_the_classes_in_turn():
    targets = torch.tensor([0] * 50 + [1] * 3 + [2] * 10)

    drawn = balanced(targets, 15)

    assert torch.bincount(targets[drawn]).tolist() == [6, 3, 6]
    assert len(set(drawn.tolist())) == 15
    assert drawn.tolist() == sorted(drawn.tolist())
    assert balanced(targets, 15, seed=1).tolist() != drawn.tolist()
    assert len(balanced(targets, 500)) == 63


def test_a_limit_bounds_what_is_embedded(grey, encoder):
    counts = count_embedded(encoder)

    grey(64, limit=20).judge(NOTHING)

    assert sum(counts) == 20


def test_a_limit_that_leaves_one_image_of_a_class_is_refused_with_advice(grey):
    with pytest.raises(ValueError, match=r"3 images are too few .* use at least 4"):
        grey(limit=3)


def test_embeddings_that_are_no_numbers_are_refused_with_advice(grey, encoder):
    encoder.mean.fill_(float("nan"))

    with pytest.raises(ValueError, match="promote another version"):
        grey().judge(NOTHING)


def test_the_head_is_logistic_regression():
    chance = Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    rows = torch.randn(60, 5, generator=chance) + F.one_hot(targets, 5)

    head = fit(rows, targets, 3)

    # The bias has the prior of the weights, so it is one of these here.
    inputs = F.pad(rows, (0, 1), value=1.0).numpy()
    oracle = LogisticRegression(C=PRIOR_VARIANCE, fit_intercept=False, tol=1e-8, max_iter=1000)
    oracle.fit(inputs, targets.numpy())
    expected = torch.tensor(oracle.predict_proba(inputs), dtype=torch.float32)
    # Newton steps stop early; a hundredth is far below the differences that matter.
    assert torch.allclose(head(rows).softmax(dim=1), expected, atol=1e-2)
