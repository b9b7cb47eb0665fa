"""Tasks of held-out images, and what is made of them."""

import pytest
import torch

from models.evaluation.comparison import compare_on_episodes
from models.generation import tasks
from models.generation.tasks import answer, candidate, cautious_gain, draw_tasks
from models.heads.kinds.cosine import Cosine
from tests.models.generation.conftest import made_up_groups
from tests.models.generation.generators.test_generators import learned


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", 5)


def test_no_image_is_support_and_query_of_a_task():
    targets = torch.tensor([0] * 9 + [-1] * 5 + [1] * 20 + [2] * 12 + [3])

    drawn = draw_tasks(targets, 2, seed=0)

    assert len(drawn) == 5
    for task in drawn:
        rows = torch.cat([task.support, task.query], dim=1)
        assert len(set(rows.flatten().tolist())) == rows.numel()
        assert torch.equal(targets[rows], task.labels[:, None].expand(rows.shape))
        assert set(task.labels.tolist()) == {0, 1, 2}
        assert task.support.shape == (3, 2)
        assert task.query.shape == (3, 7)
    assert all(
        torch.equal(first.support, second.support)
        for first, second in zip(drawn, draw_tasks(targets, 2, seed=0), strict=True)
    )


def test_too_few_images_make_no_task():
    assert draw_tasks(torch.tensor([0] * 19 + [1] * 20), 1, seed=0) == []
    assert draw_tasks(torch.tensor([0] * 60 + [1]), 1, seed=0) == []
    assert draw_tasks(torch.empty(0, dtype=torch.long), 1, seed=0) == []


def test_every_head_answers_the_same_tasks():
    groups = made_up_groups(noise=0.9)
    target, _ = learned("clusters")
    drawn = draw_tasks(groups.groups, 1, seed=0)

    answers = answer(groups.points, drawn, {"clusters": target}, {"other": Cosine()}, 6)

    assert torch.equal(answers.asked, torch.full((5, 6), 10.0))
    assert set(answers.right) == {
        *("blend", "cosine", "other"),
        *(candidate("clusters", weight) for weight in tasks.WEIGHTS),
    }
    assert all(bool((right <= answers.asked).all()) for right in answers.right.values())
    assert torch.equal(answers.right["other"], answers.right["cosine"])
    # Of groups that it knows, the centres say more than one image does.
    assert answers.right["clusters 0.75"].sum() > answers.right["blend"].sum()


def test_what_is_always_ahead_is_better_and_what_is_not_is_not():
    asked = torch.full((20, 6), 10.0)
    before = torch.full((20, 6), 5.0)

    ahead = compare_on_episodes(before + 1, before, asked)
    level = compare_on_episodes(before, before, asked)

    assert (ahead.better, ahead.probability) == (True, 1.0)
    assert ahead.accuracy == pytest.approx(0.6)
    assert ahead.worst_recall_loss == pytest.approx(-0.1)
    assert (level.better, level.probability) == (False, 0.5)
    assert level.reason.endswith("not 0.9")
    assert cautious_gain(before, before, asked) == 0.0


def test_a_gain_of_one_label_alone_is_no_sure_gain():
    asked, before = torch.full((20, 6), 10.0), torch.full((20, 6), 5.0)
    candidate = before.clone()
    candidate[:, 0] += 5
    candidate[:, 1] -= 4

    verdict = compare_on_episodes(candidate, before, asked)

    assert not verdict.better
    assert cautious_gain(candidate, before, asked) < float((candidate - before).sum() / asked.sum())
