"""The guard of meta-learning."""

import torch
from torch import Generator
from torch.nn import functional as F

from models.evaluation.comparison import compare_on_episodes
from models.heads.kinds.cosine import Cosine
from models.metalearning.episodes import Episodes, EpisodeShape
from models.metalearning.guard import correct_answers, queries_asked

LABELS, EACH, DIM = 8, 12, 16


def embeddings(noise: float, seed: int = 0):
    generator = Generator().manual_seed(seed)
    centres = torch.randn(LABELS, DIM, generator=Generator().manual_seed(1))
    vectors = centres.repeat_interleave(EACH, dim=0)
    return F.normalize(vectors + noise * torch.randn(vectors.shape, generator=generator), dim=1)


def drawn(count: int = 60):
    targets = torch.arange(LABELS).repeat_interleave(EACH)
    episodes = Episodes(targets, range(LABELS), EpisodeShape(ways=5, shots=1, queries=4))
    generator = Generator().manual_seed(0)
    return [episodes.draw(generator) for _ in range(count)]


def hits(noise: float, seed: int = 0):
    return correct_answers(Cosine(), embeddings(noise, seed), drawn(), LABELS)


def test_all_queries_of_labels_that_lie_apart_are_right():
    episodes = drawn()

    right, asked = hits(0.01), queries_asked(episodes, LABELS)

    assert torch.equal(right, asked)
    assert set(asked.sum(dim=1).tolist()) == {20.0}


def test_what_is_better_at_new_labels_is_better():
    verdict = compare_on_episodes(hits(0.5), hits(1.5), queries_asked(drawn(), LABELS))

    assert verdict.better
    assert verdict.probability > 0.99
    assert verdict.accuracy > verdict.before + 0.1


def test_what_is_as_good_is_not_better():
    same = compare_on_episodes(hits(1.0), hits(1.0), queries_asked(drawn(), LABELS))

    assert not same.better
    assert same.probability == 0.5
    assert "0.50, not 0.9" in same.reason


def test_a_gain_of_one_label_of_many_is_no_proof():
    asked = queries_asked(drawn(), LABELS)
    before = asked / 2
    candidate = before.clone()
    candidate[:, 3] = asked[:, 3]  # one label is always right now

    verdict = compare_on_episodes(candidate, before, asked)

    assert not verdict.better  # a draw of labels leaves it out one time of three
    assert 0.6 < verdict.probability < 0.9
    assert verdict.worst_recall_loss == 0.0


def test_a_label_that_loses_is_told():
    asked = queries_asked(drawn(), LABELS)
    candidate = asked.clone()
    candidate[:, 2] = 0

    verdict = compare_on_episodes(candidate, asked, asked)

    assert verdict.worst_recall_loss == 1.0
    assert not verdict.better
