"""What every search promises, and the proxy that judges for them."""

from typing import Any

import pytest
import torch

from models.augmentation_search import Search
from models.augmentation_search.candidates import describe, documents
from models.augmentation_search.searches import searches
from models.training.checkpoint import pack, unpack

SMALL: dict[str, dict[str, Any]] = {
    "grid": {"n": (1,), "m": (3.0, 6.0, 9.0)},
    "reinforce": {"trials": 3, "sub_policies": 2},
    "per_class": {"crops": (1.0, 0.3)},
}


@pytest.fixture(params=searches)
def search(request) -> Search:
    return searches[request.param](**SMALL.get(request.param, {}))


def outcomes(trials) -> list[tuple[int, int, str, float, float]]:
    return [
        (t.number, t.of, describe(t.candidate), t.judged.score, t.judged.accuracy) for t in trials
    ]


def test_trials_count_from_one_to_all_and_have_finite_scores(search, grey):
    trials = list(search.search(grey()))

    assert [trial.number for trial in trials] == list(range(1, trials[0].of + 1))
    assert len({trial.of for trial in trials}) == 1
    assert all(trial.judged.score < 0 for trial in trials)
    assert all(0 <= trial.judged.accuracy <= 1 for trial in trials)


def test_the_same_search_goes_the_same_way(search, grey):
    first, second = (list(search.search(grey())) for _ in range(2))

    assert outcomes(first) == outcomes(second)


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_search_goes_on_and_ends_as_if_it_had_not_been(search, grey, after):
    whole, before, later = grey(views=1), grey(views=1), grey(views=1)
    expected = list(search.search(whole))
    for _, _ in zip(range(after), search.search(before), strict=False):
        state = unpack(pack(before.state()))

    later.load(state)
    trials = list(search.search(later))

    assert outcomes(trials) == outcomes(expected)
    first, second = search.choose(whole, expected), search.choose(later, trials)
    assert first.candidate == second.candidate
    assert first.verdict == second.verdict


def test_a_finished_search_is_gone_through_without_embedding(search, grey, count_embedded):
    before, later = grey(), grey()
    expected = list(search.search(before))
    later.load(unpack(pack(before.state())))
    counts = count_embedded()

    trials = list(search.search(later))

    assert outcomes(trials) == outcomes(expected)
    assert counts == []


def test_chance_elsewhere_is_not_touched(search, grey):
    before = torch.get_rng_state()

    proxy = grey()
    search.choose(proxy, list(search.search(proxy)))

    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_found_was_tried_or_is_the_default(search, grey):
    proxy = grey()
    trials = list(search.search(proxy))

    result = search.choose(proxy, trials)

    assert result.candidate in [trial.candidate for trial in trials]
    assert result.verdict.accuracy == pytest.approx(float(result.right.mean()))
    named = documents(result.candidate.policy)
    assert [set(document) for document in named] == [{"name", "options"}]
