"""What each label is there for when a job learns across labels."""

from uuid import UUID

import pytest

from app.jobs.planning.label_splits import SplitOptions, divide, judged_part, short_of_images
from app.jobs.training_data import Example, Labeled
from app.problems import LabelsDoNotSuffice
from models.metalearning.episodes import EpisodeShape

SHAPE = EpisodeShape(ways=(2, 3), shots=1, queries=2)
RANDOM = SplitOptions((), (), separator="", seed=0)


def labeled(*counts: int, first: int = 0) -> list[Example]:
    """So many images of each label."""
    return [
        Example(UUID(int=1000 * label + n), f"{label}-{n}", UUID(int=label), f"a/{label}")
        for label, count in enumerate(counts, first)
        for n in range(count)
    ]


def names(*labels: int) -> tuple[str, ...]:
    return tuple(str(UUID(int=label)) for label in labels)


def test_a_part_of_the_labels_judges():
    examples = labeled(*[3] * 20)

    pool = divide(Labeled(examples), len(examples), RANDOM, SHAPE)

    assert [len(part) for part in pool.split] == [12, 3, 5]


def test_labels_of_the_project_judge_where_others_teach():
    own, others = labeled(3, 3), labeled(*[3] * 8, first=10)

    pool = divide(Labeled(own + others), len(own), RANDOM, SHAPE)

    assert pool.split.test == [0, 1]
    assert len(pool.split.train) + len(pool.split.validation) == 8


def test_where_the_project_has_one_image_of_a_label_labels_of_others_judge():
    own, others = labeled(1, 1, 3), labeled(*[3] * 8, first=10)

    pool = divide(Labeled(own + others), len(own), RANDOM, SHAPE)

    assert pool.split.test
    assert not {0, 1} & {n for part in pool.split for n in part}


def test_what_another_project_calls_like_a_label_that_judges_is_not_learned_from():
    own = [e._replace(label=f"c{e.label_id.int}") for e in labeled(3, 3)]
    others = [
        e._replace(label=f"earlier/c{e.label_id.int - 10}") for e in labeled(*[3] * 8, first=10)
    ]

    pool = divide(Labeled(own + others), len(own), RANDOM, SHAPE)

    names = pool.labeled.names
    assert [names[n] for n in pool.split.test] == ["c0", "c1"]
    learned = {names[n] for n in (*pool.split.train, *pool.split.validation)}
    assert learned == {f"earlier/c{n}" for n in range(2, 8)}


def test_labels_that_begin_alike_are_there_for_the_same():
    examples = [
        e._replace(label=f"{'greek' if e.label_id.int % 3 else 'latin'}-{e.label_id.int}")
        for e in labeled(*[3] * 12)
    ]
    options = RANDOM._replace(separator="-")

    pool = divide(Labeled(examples), len(examples), options, SHAPE)

    parts = [{pool.labeled.names[n].partition("-")[0] for n in part} for part in pool.split]
    assert not parts[0] & parts[2]
    assert parts[0]
    assert parts[2]


def test_named_labels_judge_and_the_others_are_learned_from():
    examples = labeled(*[3] * 8)
    options = RANDOM._replace(test=names(5, 6), validation=names(0, 1))

    pool = divide(Labeled(examples), len(examples), options, SHAPE)

    assert pool.split == ([2, 3, 4, 7], [0, 1], [5, 6])


def test_one_label_validates_nothing_and_is_learned_from():
    examples = labeled(*[3] * 6)

    pool = divide(Labeled(examples), len(examples), RANDOM, SHAPE)

    assert [len(part) for part in pool.split] == [4, 0, 2]


@pytest.mark.parametrize(
    ("counts", "test", "part", "missing"),
    [((3, 3, 3), (), "learn from", 1), ((3, 3, 3, 2), (0, 3), "judge with", 1)],
)
def test_a_part_that_does_not_suffice_is_named(counts, test, part, missing):
    examples = labeled(*counts)

    with pytest.raises(LabelsDoNotSuffice) as problem:
        divide(Labeled(examples), len(examples), RANDOM._replace(test=names(*test)), SHAPE)

    assert problem.value.members == {"part": part, "missing_labels": missing}


def test_labels_with_few_images_are_neither_learned_from_nor_judged_with():
    examples = labeled(3, 3, 3, 3, 2, 1)
    options = RANDOM._replace(test=names(0, 1, 4))

    pool = divide(Labeled(examples), len(examples), options, SHAPE)
    part = judged_part(pool.labeled, pool.split)

    assert short_of_images(pool, SHAPE) == ["a/4", "a/5"]
    assert pool.split == ([2, 3], [], [0, 1])
    assert part.positions == list(range(6))


def test_in_folds_each_label_judges_once_what_has_not_seen_it():
    own = labeled(1, *[3] * 8)
    others = [
        e._replace(label=f"earlier/{e.label_id.int - 20}") for e in labeled(*[3] * 4, first=20)
    ]
    options = RANDOM._replace(folds=4)

    pool = divide(Labeled(own + others), len(own), options, SHAPE)

    usable = list(range(1, 13))  # all but the first, which has one image
    assert pool.split == (usable, [], [])
    assert sorted(n for fold in pool.folds for n in fold.test) == usable
    for fold in pool.folds:
        assert sorted(n for part in fold for n in part) == usable
    assert pool.judging == pool.folds
    assert pool.runs == [*pool.folds, pool.split]


def test_what_two_projects_call_alike_is_in_one_fold():
    own = [e._replace(label=f"c{e.label_id.int}") for e in labeled(*[3] * 8)]
    others = [
        e._replace(label=f"earlier/c{e.label_id.int - 10}") for e in labeled(*[3] * 8, first=10)
    ]

    pool = divide(Labeled(own + others), len(own), RANDOM._replace(folds=4), SHAPE)

    for fold in pool.folds:
        judges = {pool.labeled.names[n].rpartition("/")[2] for n in fold.test}
        assert len(fold.test) == 2 * len(judges)


@pytest.mark.parametrize(("folds", "missing"), [(9, 1), (5, 1)])
def test_labels_that_do_not_suffice_for_folds_are_refused(folds, missing):
    """Nine folds of eight labels, or five, of which two have one label each."""
    examples = labeled(*[3] * 8)

    with pytest.raises(LabelsDoNotSuffice) as error:
        divide(Labeled(examples), len(examples), RANDOM._replace(folds=folds), SHAPE)

    assert error.value.members["missing_labels"] == missing
    assert error.value.members["part"] == "judge with"
    assert f"labels with {SHAPE.images} images each" in error.value.detail
