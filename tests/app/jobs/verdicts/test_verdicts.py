"""How a job judges."""

from uuid import uuid4

import torch

from app.jobs.training_data import Example, Labeled
from app.jobs.verdicts import combine_verdicts, out_of_fold_correctness, unjudged
from app.sql.tables import TrainingImage
from models.evaluation.comparison import Verdict

GOOD = Verdict(True, 0.97, 0.81234567, 0.5, -0.1, "it is better")
BAD = Verdict(False, 0.4, 0.81234567, 0.82, 0.2, "it is not")


def test_the_worst_verdict_decides():
    verdict = combine_verdicts({"prototypes": GOOD, "champion": BAD}, 32)

    assert (verdict.better, verdict.reason, verdict.images) == (False, "it is not", 32)
    assert verdict.accuracy == 0.8123
    assert verdict.against["prototypes"].better
    assert verdict.against["champion"].before == 0.82


def test_what_is_shown_beside_decides_nothing():
    verdict = combine_verdicts({"nothing": GOOD}, 32, beside={"trivialaugment": BAD})

    assert verdict.better
    assert set(verdict.against) == {"nothing", "trivialaugment"}


def test_without_labels_nothing_is_better():
    verdict = unjudged(1)

    assert not verdict.better
    assert verdict.accuracy is None
    assert "too few labels" in verdict.reason


def test_images_that_a_version_has_learned_are_judged_by_its_own_folds(context, make_version):
    version = make_version(context.db)
    label, wrong = uuid4(), uuid4()
    examples = [Example(uuid4(), "0" * 64, label, "owl") for _ in range(3)]
    predicted = [[label, wrong], [], None]  # in two repetitions; never; not learned from
    with context.db.writing() as session:
        session.add_all(
            TrainingImage(
                encoder_id=version,
                image_id=example.image_id,
                label_id=label,
                label="owl",
                predicted=[str(name) for name in labels],
            )
            for example, labels in zip(examples, predicted, strict=True)
            if labels is not None
        )

    judged = out_of_fold_correctness(
        context.db, version, Labeled(examples), torch.tensor([1.0, 1.0, 0.0])
    )

    assert judged.tolist() == [0.5, 1.0, 0.0]
