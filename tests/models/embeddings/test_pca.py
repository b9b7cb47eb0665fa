"""The directions in which embeddings vary most."""

import pytest
import torch
from sklearn.decomposition import PCA

from models.embeddings.pca import principal_components, spectrum


def test_it_is_what_scikit_learn_finds():
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    oracle = PCA(2).fit(embeddings.numpy())

    places, shares = principal_components(embeddings, 2)

    expected = torch.from_numpy(oracle.transform(embeddings.numpy()))
    for k in range(2):
        assert torch.allclose(places[:, k].abs(), expected[:, k].abs(), atol=1e-10)
    assert shares.tolist() == pytest.approx(oracle.explained_variance_ratio_.tolist())


def test_images_that_are_all_the_same_lie_on_one_point():
    places, shares = principal_components(torch.ones(5, 4), 2)

    assert not places.any()
    assert not shares.any()


def test_one_image_has_no_direction():
    with pytest.raises(ValueError, match="two images, got 1"):
        principal_components(torch.ones(1, 4), 2)


@pytest.mark.parametrize("count", [5, 30], ids=["fewer-than-dimensions", "more"])
def test_the_spectrum_rebuilds_the_scatter(count):
    points = torch.randn(count, 12, generator=torch.Generator().manual_seed(1)).double()

    eigenvalues, basis = spectrum(points)

    assert len(eigenvalues) == min(count, 12)
    assert torch.allclose(basis * eigenvalues @ basis.T, points.T @ points, atol=1e-10)
    assert torch.allclose(basis.T @ basis, torch.eye(len(eigenvalues)).double(), atol=1e-10)
