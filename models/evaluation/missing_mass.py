"""How likely the next image is of a class that no label names yet."""

from jaxtyping import Bool, Int
from torch import Tensor

from models.evaluation.intervals import Interval, normal_quantile, wilson


def unseen_mass(
    shots: Int[Tensor, " C"], earlier: Bool[Tensor, " C"] | None = None, *, confidence: float = 0.95
) -> Interval:
    """The share of images whose class has no label yet: classes seen once, over images seen.

    Good, 1953 (https://doi.org/10.1093/biomet/40.3-4.237), who credits Turing. It holds for labels
    of images as they come; of images that were picked by class it says nothing. The interval is
    Esty's (1983, https://doi.org/10.1214/aos/1176346256), whose upper end is at least Wilson's for
    the share of singletons: without any, Esty's would have no width.

    Args:
        earlier: classes that had a label before these images came: their only one found none.

    Raises:
        ValueError: no image has a label.
    """
    images = int(shots.sum())
    if not images:
        raise ValueError("no image has a label")
    discovered = shots if earlier is None else shots[~earlier]
    once, twice = int((discovered == 1).sum()), int((discovered == 2).sum())
    mass = once / images
    variance = (once * (1 - mass) + 2 * twice) / images**2
    reach = normal_quantile((1 + confidence) / 2) * variance**0.5
    ceiling = wilson(mass, float(images), confidence=confidence).high
    return Interval(mass, max(mass - reach, 0.0), min(max(mass + reach, ceiling), 1.0))
