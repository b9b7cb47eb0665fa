"""What one more label can change."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from models.acquisition import CLOSENESS_SLOPE, DOUBT_SLOPE, Pool, closeness, doubt
from models.acquisition.bounds import ROUNDING, WORN, remember
from models.acquisition.strategies.adaptive import Adaptive
from models.acquisition.strategies.least_confidence import LeastConfidence
from models.acquisition.strategies.margin import Margin
from models.heads.kinds.cosine import Cosine, FittedCosine

CHANCE = torch.Generator().manual_seed(0)
CLASSES, IMAGES = 5, 400
CENTRES = F.normalize(torch.randn(CLASSES, 16, generator=CHANCE), dim=1)
TRUTH = torch.randint(CLASSES, (IMAGES,), generator=CHANCE)
POINTS = F.normalize(
    CENTRES[TRUTH] + 0.25 * torch.randn(IMAGES, 16, generator=CHANCE), dim=1
).half()


def fitted(labeled: torch.Tensor, temperature: float | None = None) -> FittedCosine:
    options = Cosine(temperature=temperature, centered=True)
    head = options.fit(POINTS[labeled], TRUTH[labeled], CLASSES, POINTS.double().mean(0).float())
    assert isinstance(head, FittedCosine)
    return head


def seeds(shots: int) -> torch.Tensor:
    """The first images of each class."""
    return torch.cat([TRUTH.eq(c).nonzero().flatten()[:shots] for c in range(CLASSES)])


def unlabeled(labeled: torch.Tensor) -> torch.Tensor:
    free = torch.ones(IMAGES, dtype=torch.bool)
    free[labeled] = False
    return free.nonzero().flatten()


def same_picks(first, second) -> bool:
    """Equal, but for images whose scores float32 cannot tell apart."""
    if not torch.allclose(first.scores, second.scores, atol=1e-5):
        return False
    differ = first.indices != second.indices
    gaps = first.scores.diff().abs()
    tied = torch.cat([gaps, torch.zeros(1)]).minimum(torch.cat([torch.zeros(1), gaps])) < 1e-5
    return bool((~differ | tied).all())


def test_after_each_of_many_labels_the_ranking_is_that_of_a_full_recompute():
    generator = torch.Generator().manual_seed(1)
    for score, slope, strategy in (
        (closeness, CLOSENESS_SLOPE, Margin()),
        (doubt, DOUBT_SLOPE, LeastConfidence()),
    ):
        labeled, remembered = seeds(10), None
        for _ in range(60):
            head = fitted(labeled)
            remembered = remember(head, POINTS, remembered)
            rows = unlabeled(labeled)
            quick = remembered.best(head, POINTS, rows, score, slope, 10)
            whole = strategy.rank(Pool(POINTS, rows, head.probabilities), 10)
            assert same_picks(quick, whole)
            new = rows[int(torch.randint(len(rows), (), generator=generator))]
            labeled = torch.cat([labeled, new[None]])


def test_no_score_moves_farther_than_its_bound():
    before, after = fitted(seeds(5), 0.05), fitted(seeds(6), 0.05)
    remembered = remember(before, POINTS)
    moves = remembered.logit_moves(after)
    earlier, later = before.probabilities(POINTS.float()), after.probabilities(POINTS.float())
    reach = (earlier * (moves + moves.max()).exp()).clamp_max(1) @ moves

    assert (
        (before.scores(POINTS.float()) - after.scores(POINTS.float())).abs() / 0.05 <= moves
    ).all()
    assert ((closeness(later) - closeness(earlier)).abs() <= CLOSENESS_SLOPE * reach).all()
    assert ((doubt(later) - doubt(earlier)).abs() <= DOUBT_SLOPE * reach).all()


@pytest.mark.parametrize("uncertainty", [closeness, doubt])
def test_where_all_logits_move_a_little_an_uncertainty_moves_by_a_share_of_itself(uncertainty):
    generator = torch.Generator().manual_seed(2)
    logits = 8 * torch.randn(2000, CLASSES, generator=generator, dtype=torch.float64)
    moves = 0.02 * (2 * torch.rand(2000, CLASSES, generator=generator, dtype=torch.float64) - 1)

    earlier, later = (uncertainty(z.softmax(dim=1)) for z in (logits, logits + moves))

    assert earlier.min() < 1e-5, "some are nearly certain"
    assert ((later / earlier).log().abs() <= 2 * moves.abs().amax(dim=1)).all()


def test_most_images_are_not_looked_at_again():
    before = fitted(seeds(40), 0.05)
    remembered = remember(before, POINTS)
    rows = unlabeled(seeds(41))
    looked_at = []

    class Counting(FittedCosine):
        def probabilities(self, queries):
            looked_at.append(len(queries))
            return super().probabilities(queries)

    after = fitted(torch.cat([seeds(40), unlabeled(seeds(40))[:1]]), 0.05)
    counting = Counting(**{name: getattr(after, name) for name in after.__dataclass_fields__})
    remembered.best(counting, POINTS, rows, closeness, CLOSENESS_SLOPE, 5)

    assert 5 <= sum(looked_at) < len(rows) / 2


def test_only_classes_that_moved_far_and_images_that_are_new_are_computed_again():
    before = fitted(seeds(5), 0.02)
    first = remember(before, POINTS[:300])
    newcomers = (TRUTH == 2).nonzero().flatten()[5:9]
    after = fitted(torch.cat([seeds(5), newcomers]), 0.02)

    second = remember(after, POINTS, first)

    assert first.logit_moves(after)[2] > WORN
    unmoved = [0, 1, 3, 4]
    assert torch.equal(second.cosines[unmoved, :300], first.cosines[unmoved])
    assert torch.allclose(second.cosines[2], after.scores(POINTS.float())[:, 2], atol=1e-6)
    assert torch.equal(second.centroids[unmoved], first.centroids[unmoved])
    assert second.logit_moves(after).max() <= WORN
    assert len(second.lengths) == IMAGES


@pytest.mark.parametrize("scale", [1.0, 0.003])
def test_cosines_computed_again_are_exact_even_close_to_the_mean(scale):
    common = F.normalize(torch.ones(16), dim=0)
    points = F.normalize(common + scale * POINTS.float(), dim=1)
    mean = points.double().mean(0).float()

    def head(labeled):
        options = Cosine(temperature=0.02, centered=True)
        return options.fit(points[labeled], TRUTH[labeled], CLASSES, mean)

    first = remember(head(seeds(5)), points)
    after = head(torch.cat([seeds(5), (TRUTH == 2).nonzero().flatten()[5:9]]))
    second = remember(after, points, first)

    assert first.logit_moves(after)[2] > WORN
    expected = after.scores(points.double())[:, 2].float()
    assert (second.cosines[2] - expected).abs().max() < ROUNDING


def test_other_classes_or_another_mean_start_anew():
    head = fitted(seeds(5))
    remembered = remember(head, POINTS)
    plain = Cosine().fit(POINTS[seeds(5)], TRUTH[seeds(5)], CLASSES)
    fewer = Cosine(centered=False).fit(POINTS[:2], torch.tensor([0, 1]), 2)

    assert remembered.fits(head, IMAGES)
    assert not remembered.fits(head, IMAGES - 1)
    assert not remembered.fits(plain, IMAGES)
    assert not remembered.fits(fewer, IMAGES)
    assert torch.equal(remember(plain, POINTS, remembered).centroids, plain.centroids)


def test_adaptive_chooses_alike_with_what_is_remembered():
    labeled = seeds(10)
    head, later = fitted(labeled), fitted(torch.cat([labeled, unlabeled(labeled)[:1]]))
    remembered = remember(head, POINTS)
    rows = unlabeled(labeled)[1:]
    pool = Pool(POINTS, rows, later.probabilities, labeled, TRUTH[labeled], skill=lambda: 0.5)

    def shortcut(rows, uncertainty, slope, budget):
        return remembered.best(later, POINTS, rows, uncertainty, slope, budget)

    strategy = Adaptive(candidates=50)
    quick, whole = strategy.rank(replace(pool, shortcut=shortcut), 10), strategy.rank(pool, 10)

    assert quick.indices.tolist() == whole.indices.tolist()
