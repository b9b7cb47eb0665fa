"""Episodes, and splits of labels."""

import pytest
import torch
from torch import Generator

from models.metalearning.episodes import (
    Episodes,
    EpisodeShape,
    TooFewForEpisodes,
    label_folds,
    named_split,
    split_labels,
    validation_episodes,
)

TARGETS = torch.arange(8).repeat_interleave(torch.tensor([20, 20, 20, 20, 20, 20, 20, 3]))


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_an_episode_has_its_labels_shots_and_queries_and_no_image_twice():
    episodes = Episodes(TARGETS, range(8), EpisodeShape(ways=5, shots=3, queries=4))
    chance = generator()

    for _ in range(50):
        episode = episodes.draw(chance)

        assert episode.support.shape == (5, 3)
        assert episode.query.shape == (5, 4)
        assert len(episode.positions.unique()) == 35
        rows = torch.cat([episode.support, episode.query], dim=1)
        assert bool((TARGETS[rows] == episode.labels[:, None]).all())
        assert len(episode.labels.unique()) == 5


def test_positions_are_the_support_class_by_class_and_then_the_queries():
    episode = Episodes(TARGETS, range(8), EpisodeShape(ways=3, shots=2, queries=1)).draw(
        generator()
    )

    assert episode.positions[:6].tolist() == episode.support.flatten().tolist()
    assert episode.positions[6:].tolist() == episode.query.flatten().tolist()


def test_ranges_are_drawn_from_and_labels_with_too_few_images_are_left_out():
    episodes = Episodes(TARGETS, range(8), EpisodeShape(ways=(2, 100), shots=(1, 5), queries=2))
    chance = generator()

    sizes = [tuple(episodes.draw(chance).support.shape) for _ in range(300)]

    assert episodes.left_out == [7]
    assert {ways for ways, _ in sizes} == set(range(2, 8))
    assert {shots for _, shots in sizes} == set(range(1, 6))


def test_only_the_labels_asked_for_are_drawn():
    episodes = Episodes(TARGETS, [1, 4, 6], EpisodeShape(ways=(2, 3), shots=1, queries=1))
    chance = generator()

    seen = {label for _ in range(50) for label in episodes.draw(chance).labels.tolist()}

    assert seen == {1, 4, 6}


def test_a_seed_gives_the_same_episodes():
    episodes = Episodes(TARGETS, range(8), EpisodeShape())
    first, second, other = generator(1), generator(1), generator(2)

    assert torch.equal(episodes.draw(first).positions, episodes.draw(second).positions)
    assert not torch.equal(episodes.draw(first).positions, episodes.draw(other).positions)


def test_episodes_that_share_no_image_use_nearly_all_of_them():
    episodes = Episodes(TARGETS, range(7), EpisodeShape(ways=7, shots=1, queries=3))

    drawn = list(episodes.draw_disjoint(generator()))

    positions = torch.cat([episode.positions for episode in drawn])
    assert len(drawn) == 5
    assert sorted(positions.tolist()) == list(range(140))


def test_too_few_labels_are_told_with_how_many_are_missing():
    with pytest.raises(
        TooFewForEpisodes, match="need as many with 6 images each, and there are 3"
    ) as e:
        Episodes(TARGETS, [1, 2, 3, 7], EpisodeShape(ways=(5, 8), shots=(1, 5), queries=1))

    assert e.value.missing == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 1}, "ways must be at least 2"),
        ({"ways": (6, 5)}, r"ways must be from less to more, got \[6, 5\]"),
        ({"shots": 0}, "shots must be at least 1"),
        ({"queries": 0}, "queries must be from 1"),
        ({"shots": (1, 10**9)}, "shots must be at most 1000"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EpisodeShape(**options)


def test_a_split_divides_labels_as_asked_and_a_seed_repeats_it():
    names = [f"label {n}" for n in range(40)]

    split = split_labels(names, seed=3)

    assert [len(part) for part in split] == [24, 6, 10]
    assert sorted(split.train + split.validation + split.test) == list(range(40))
    assert split == split_labels(names, seed=3)
    assert split != split_labels(names, seed=4)


def test_a_split_by_prefix_keeps_an_alphabet_together():
    names = [f"{alphabet}/{letter}" for alphabet in "abcdefghij" for letter in range(7)]

    for split in (split_labels(names, separator="/"), *label_folds(names, 5, separator="/")):
        alphabets = [{names[n][0] for n in part} for part in split]

        assert not (alphabets[0] & alphabets[1] | alphabets[0] & alphabets[2])
        assert not alphabets[1] & alphabets[2]
        assert all(alphabets)


def test_folds_judge_each_label_once():
    names = [str(n) for n in range(11)]

    folds = label_folds(names, 4)

    assert sorted(n for fold in folds for n in fold.test) == list(range(11))
    assert all(sorted([*f.train, *f.validation, *f.test]) == list(range(11)) for f in folds)
    with pytest.raises(TooFewForEpisodes, match="from 3 to the number of labels, 11, got 12"):
        label_folds(names, 12)


def test_a_split_by_names_refuses_what_is_not_there_and_what_is_named_twice():
    names = ["ant", "bee", "cat", "dog"]

    assert named_split(names, ["bee"], ["dog", "ant"]) == ([2], [1], [0, 3])
    with pytest.raises(ValueError, match="no label 'cow'"):
        named_split(names, ["cow"], ["dog"])
    with pytest.raises(ValueError, match="'dog' is named twice"):
        named_split(names, ["dog"], ["dog"])


def test_validation_has_as_many_labels_as_there_are():
    targets = torch.arange(8).repeat_interleave(6)
    shape = EpisodeShape(ways=3, shots=2, queries=2)

    episodes = validation_episodes(targets, [4, 5], shape, 6, 0)

    assert {tuple(episode.support.shape) for episode in episodes} == {(2, 2)}
    with pytest.raises(TooFewForEpisodes, match="one label to validate with"):
        validation_episodes(targets, [4], shape, 6, 0)
