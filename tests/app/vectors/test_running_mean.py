"""The mean embedding of a project's images."""

import itertools

import numpy as np
import pytest
import torch

from app.vectors.running_mean import RunningMean, oldest


def afresh(vectors, present):
    return RunningMean(vectors.shape[1], itertools.count()).follow(vectors, present).vector


@pytest.mark.parametrize("count", [1, 2, 19, 20])
def test_all_of_a_few_images_are_meant(count):
    assert oldest(np.ones(count, np.bool_)).all()


@pytest.mark.parametrize("count", [21, 100, 999, 12_345])
def test_of_many_the_newest_tenth_may_be_left_out(count):
    meant = oldest(np.ones(count, np.bool_))

    assert count * 0.9 < meant.sum() <= count
    assert meant[: meant.sum()].all()


def test_images_that_are_gone_are_not_meant():
    present = np.array([True, False, True, True])

    assert oldest(present).tolist() == [True, False, True, True]


def test_it_is_the_same_whatever_came_and_went():
    generator = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.randn(900, 8), dim=1).half()
    running = RunningMean(8, itertools.count())
    present = np.zeros(0, np.bool_)
    for _ in range(60):
        present = np.append(present, np.ones(15, np.bool_))
        present[generator.integers(len(present), size=4)] = False

        found = running.follow(vectors[: len(present)], present)

        assert torch.equal(found.vector, afresh(vectors[: len(present)], present))
    expected = vectors[torch.from_numpy(oldest(present))].double().mean(dim=0).float()
    assert torch.equal(found.vector, expected)


def test_it_moves_when_the_images_have_grown_by_a_tenth():
    vectors = torch.randn(121, 4).half()
    running = RunningMean(4, itertools.count())

    editions = [running.follow(vectors[:n], np.ones(n, np.bool_)).edition for n in range(100, 122)]

    assert len(set(editions)) == 3
    assert editions == sorted(editions)


def test_there_is_no_mean_of_nothing():
    found = RunningMean(3, itertools.count()).follow(torch.zeros(0, 3).half(), np.zeros(0, bool))

    assert found.vector.tolist() == [0.0, 0.0, 0.0]
