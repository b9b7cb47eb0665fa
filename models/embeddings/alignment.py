"""From the embeddings of one encoder to those of another.

Queries by a small network, support by a large one.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.embeddings.pca import spectrum

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # to choose from, times the largest eigenvalue


FEWEST = 16  # images, for a map that is worth its name


@dataclass(frozen=True)
class Alignment:
    """A linear map, and how well it does on images that it was not fitted to."""

    origin: Float[Tensor, " Y"]  # mean embedding of the source
    weights: Float[Tensor, "Y D"]
    target: Float[Tensor, " D"]  # mean embedding of the target
    images: int  # that it was fitted to
    cosine: float  # mean, of what it makes of an image to the image's own embedding

    def map(self, embeddings: Float[Tensor, "Q Y"]) -> Float[Tensor, "Q D"]:
        """Where the other encoder would have put these images; of unit length."""
        return F.normalize((embeddings - self.origin) @ self.weights + self.target, dim=1)


def fit(source: Float[Tensor, "M Y"], target: Float[Tensor, "M D"]) -> Alignment:
    """Ridge regression between embeddings of the same unlabeled images.

    Asymmetric retrieval by plain regression (Budnik and Avrithis, 2021), which they find hard to
    beat. https://arxiv.org/abs/2006.16331 The penalty is chosen by exact leave-one-out, in which an
    image's residual is divided by 1 - its leverage (Allen, 1974). https://doi.org/10.2307/1267500

    Raises:
        ValueError: there are fewer than `FEWEST` images.
    """
    count = len(source)
    if count < FEWEST:
        raise ValueError(f"a map between encoders needs {FEWEST} images, got {count}")
    origin, middle = source.double().mean(dim=0), target.double().mean(dim=0)
    x, y = source.double() - origin, target.double() - middle
    eigenvalues, basis = spectrum(x)
    inside = x @ basis  # (M, E)
    sums = inside.T @ y  # (E, D)
    best: tuple[float, Tensor, float] | None = None
    for share in PENALTIES:
        inverse = 1 / (eigenvalues + share * eigenvalues.max().clamp_min(1e-12))
        solved = inverse[:, None] * sums
        # The mean is fitted too: it has a leverage of 1 / M.
        leverage = (inside.square() * inverse).sum(dim=1) + 1 / count
        residual = (y - inside @ solved) / (1 - leverage)[:, None]
        error = float(residual.square().sum())
        if best is None or error < best[0]:
            left_out = F.cosine_similarity(y - residual + middle, y + middle, dim=1)
            best = error, basis @ solved, float(left_out.mean())
    assert best is not None
    _, weights, cosine = best
    return Alignment(origin.float(), weights.float(), middle.float(), count, cosine)
