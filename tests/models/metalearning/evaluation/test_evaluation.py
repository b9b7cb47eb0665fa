"""Heads on episodes of embedded images."""

import itertools
from typing import Any

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from models.heads.kinds.auto import Auto
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.ridge import Ridge
from models.metalearning import evaluation as evaluation_module
from models.metalearning.episodes import TooFewForEpisodes
from models.metalearning.evaluation import EpisodicEvaluation
from models.metalearning.evaluation.answers import EpisodeModel

LABELS, IMAGES, DIM = 8, 12, 16
TARGETS = torch.arange(LABELS).repeat_interleave(IMAGES)


def embeddings(noise: float, seed: int = 0) -> torch.Tensor:
    """Images around a centre for each label, as they are stored."""
    generator = Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(LABELS, DIM, generator=generator), dim=1)
    offsets = noise * torch.randn(len(TARGETS), DIM, generator=generator) / DIM**0.5
    return F.normalize(centres[TARGETS] + offsets, dim=1).half()


NOISY = embeddings(noise=2.0)
COSINE = EpisodeModel(Cosine(), NOISY)
MEAN = NOISY.float().mean(dim=0)


def evaluation(*models, targets=TARGETS, labels=range(LABELS), **options):
    defaults: dict[str, Any] = {"ways": 4, "shots": (1, 3), "queries": 3, "count": 20}
    return EpisodicEvaluation(models or (COSINE,), targets, list(labels), **(defaults | options))


def done(work: EpisodicEvaluation, steps: int | None = None):
    """What came out of all steps, or of some."""
    for _ in itertools.islice(work.steps(), steps):
        pass
    return work.figures()


def test_what_is_far_apart_is_always_told_apart():
    (one, three) = done(evaluation(EpisodeModel(Ridge(), embeddings(0.01), MEAN)))

    for figures in (one, three):
        (model,) = figures.models
        assert model.over_episodes == (1, 1, 1)
        assert model.over_images.value == 1
        assert model.over_images.low < 1
        assert set(model.label_accuracy.values()) == {1.0}
    assert one.separate_episodes > three.separate_episodes >= 2


def test_the_figures_of_a_model_do_not_depend_on_others_or_on_how_many_go_at_once(monkeypatch):
    other = EpisodeModel(Auto(), NOISY, MEAN)

    alone = done(evaluation())
    first = done(evaluation(COSINE, other))
    monkeypatch.setattr(evaluation_module, "NUMBERS_PER_STEP", 1)
    single = done(evaluation())

    for shots, beside, slowly in zip(alone, first, single, strict=True):
        expected = shots.models[0]
        for model in (beside.models[0], slowly.models[0]):
            for interval in ("over_episodes", "over_images", "over_labels"):
                assert getattr(model, interval) == pytest.approx(getattr(expected, interval))
            assert model.label_accuracy == pytest.approx(expected.label_accuracy)
            assert model.calibration_error == pytest.approx(expected.calibration_error)


def test_embeddings_may_lie_anywhere_among_others():
    order = torch.randperm(2 * len(TARGETS), generator=Generator().manual_seed(0))
    rows = order[: len(TARGETS)]
    scattered = torch.zeros(2 * len(TARGETS), DIM).half().index_copy(0, rows, NOISY)
    models = [EpisodeModel(head, scattered, MEAN, rows) for head in (Cosine(), Ridge())]
    in_order = [EpisodeModel(head, NOISY, MEAN) for head in (Cosine(), Ridge())]

    assert done(evaluation(*models, count=3)) == done(evaluation(*in_order, count=3))


def test_whoever_stops_has_the_first_episodes_of_all_models():
    models = (COSINE, EpisodeModel(Ridge(), NOISY, MEAN))
    stopped, short = evaluation(*models), evaluation(*models, count=3)

    # Two models at two numbers of shots, on two sets of episodes; of the fourth step, the last is
    # not done.
    figures = done(stopped, steps=3 * 8 + 8)

    assert stopped.done == 3
    expected = done(short)
    for shots, other in zip(figures, expected, strict=True):
        assert [m.over_episodes for m in shots.models] == [m.over_episodes for m in other.models]
        assert shots.separate_episodes == 3


def test_a_model_is_no_better_than_itself_and_pairs_are_all_there():
    worse = EpisodeModel(Cosine(), embeddings(noise=6.0))

    (figures,) = done(evaluation(COSINE, COSINE, worse, shots=(2,), count=40))

    assert [(pair.first, pair.second) for pair in figures.pairs] == [(0, 1), (0, 2), (1, 2)]
    same, better, _ = figures.pairs
    assert same.over_episodes == same.over_images == (0, 0, 0)
    assert better.over_episodes.low > 0
    assert better.over_episodes.value == pytest.approx(
        figures.models[0].over_episodes.value - figures.models[2].over_episodes.value
    )


def test_the_mean_over_labels_is_that_over_episodes():
    (figures,) = done(evaluation(shots=(1,), ways=8, count=10))

    (model,) = figures.models
    mean = sum(model.label_accuracy.values()) / LABELS
    assert model.over_episodes.value == pytest.approx(mean)
    assert model.over_labels is None  # every episode has all labels
    assert 0 < model.calibration_error < 1


def test_labels_with_too_few_images_are_left_out_and_too_few_labels_refused():
    targets = torch.where((TARGETS == 7) & (torch.arange(len(TARGETS)) % 2 == 0), 6, TARGETS)

    work = evaluation(targets=targets, shots=(5,))

    assert work.left_out == [7]
    assert work.labels == list(range(7))
    with pytest.raises(TooFewForEpisodes) as raised:
        evaluation(targets=targets, labels=[0, 1, 7], shots=(5,))
    assert raised.value.missing == 2


def test_separate_episodes_share_no_image_and_count_labels_alike():
    work = evaluation(shots=(1,), ways=2, queries=5, count=1000)

    drawn = [episode for part in work._rounds for episode in part.remaining]
    rows = torch.cat([episode.positions for episode in drawn])
    assert len(rows.unique()) == len(rows)
    assert len(drawn) > LABELS // 2 * IMAGES // 6  # more than with all queries
    labels = torch.cat([episode.labels for episode in drawn])
    assert int(labels.bincount().max()) * (1 + drawn[0].query.shape[1]) <= IMAGES


def test_before_any_step_nothing_is_claimed():
    (one, _) = evaluation().figures()

    assert one.models[0] == (None, None, None, None, {})
    assert one.pairs == []
