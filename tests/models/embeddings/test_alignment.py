"""The map between the embeddings of two encoders."""

import pytest
import torch
from torch.nn import functional as F

from models.embeddings import alignment


def draw(rows, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def two_encoders(rows, *, noise=0.0, small=12, large=20):
    """Embeddings of the same images, the large one's a linear map of the small one's."""
    source = draw(rows, small)
    turned = source @ draw(small, large, seed=1)
    return source, F.normalize(turned + noise * draw(rows, large, seed=2), dim=1)


def test_what_is_linear_is_found():
    source, target = two_encoders(200)

    fitted = alignment.fit(source[:150], target[:150])

    crossed = fitted.map(source[150:].float())
    assert crossed.norm(dim=1) == pytest.approx(1)
    assert F.cosine_similarity(crossed, target[150:].float(), dim=1).min() > 0.95
    assert fitted.images == 150


@pytest.mark.parametrize("rows", [18, 60], ids=["fewer-than-dimensions", "more"])
def test_leave_one_out_equals_fitting_again(rows, monkeypatch):
    monkeypatch.setattr(alignment, "PENALTIES", (0.1,))
    monkeypatch.setattr(alignment, "FEWEST", 2)
    source, target = two_encoders(rows, noise=0.3, small=25)

    fitted = alignment.fit(source, target)

    # The penalty is a share of the largest eigenvalue, which must be that of all images.
    middle = source - source.mean(0)
    penalty = 0.1 * torch.linalg.eigvalsh(middle.T @ middle).max()
    cosines = []
    for i in range(rows):
        remaining = torch.arange(rows) != i
        x, y = source[remaining], target[remaining]
        centred = x - x.mean(0)
        gram = centred.T @ centred + penalty * torch.eye(25, dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ (y - y.mean(0)))
        prediction = (source[i] - x.mean(0)) @ weights + y.mean(0)
        cosines.append(float(F.cosine_similarity(prediction, target[i], dim=0)))
    assert fitted.cosine == pytest.approx(sum(cosines) / rows, abs=1e-9)


def test_noise_is_told():
    clear = alignment.fit(*two_encoders(100))
    noisy = alignment.fit(*two_encoders(100, noise=1.0))

    assert noisy.cosine < clear.cosine - 0.1


def test_images_that_are_all_the_same_are_no_reason_to_fail():
    source, target = draw(1, 8).expand(20, -1), draw(1, 5).expand(20, -1)

    crossed = alignment.fit(source, target).map(source.float())

    assert torch.allclose(crossed, target.float(), atol=1e-5)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="needs 16 images, got 3"):
        alignment.fit(draw(3, 4), draw(3, 5))
