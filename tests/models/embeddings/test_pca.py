"""The directions in which embeddings vary most."""

import pytest
import torch
from sklearn.decomposition import PCA

from models.embeddings.pca import principal_components


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
