"""What several pretraining methods are made of."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

ITERATIONS = 20  # of k-means


SINKHORN = 3  # iterations; more change nothing that is seen (Caron et al., 2020, appendix A)


def projection_head(
    inputs: int, hidden: int, outputs: int, *, layers: int = 2, norm_last: bool = False
) -> nn.Sequential:
    """Linear layers with batch norms and ReLUs between them.

    Args:
        norm_last: a batch norm at the end as well.
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        inputs = hidden
    modules.append(nn.Linear(inputs, outputs, bias=not norm_last))
    if norm_last:
        modules.append(nn.BatchNorm1d(outputs))
    return nn.Sequential(*modules)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move the weights of `target` towards those of `source`, by 1 - momentum of the way."""
    for weight, aim in zip(target.parameters(), source.parameters(), strict=True):
        weight.lerp_(aim, 1 - momentum)


class EmbeddingQueue(nn.Module):
    """The last features that went in, and the images that they are of."""

    features: Tensor
    images: Tensor
    filled: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(length, dim))
        self.register_buffer("images", torch.full((length,), -1))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def push(self, features: Float[Tensor, "B P"], images: Int[Tensor, " B"]) -> None:
        """Put features in; the oldest fall out."""
        count = min(len(features), len(self.features))
        self.features = torch.cat([features[-count:].float(), self.features[:-count]])
        self.images = torch.cat([images[-count:].to(self.images.device), self.images[:-count]])
        self.filled = (self.filled + count).clamp_max(len(self.features))

    def inside(self) -> Float[Tensor, "J P"]:
        """What is in it, newest first."""
        return self.features[: int(self.filled)]

    def of(self, images: Int[Tensor, " B"]) -> Bool[Tensor, "B J"]:
        """Which of them show the same image."""
        return images.to(self.images.device).unsqueeze(1) == self.images[: int(self.filled)]


class Bank(nn.Module):
    """A feature of every image, which moves slowly towards what is seen of it.

    Wu et al., 2018. https://arxiv.org/abs/1805.01978
    """

    features: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(images, dim), dim=1))

    @torch.no_grad()
    def move(
        self, positions: Int[Tensor, " B"], features: Float[Tensor, "B P"], momentum: float
    ) -> None:
        """Move the features of some images."""
        positions = positions.to(self.features.device)
        latest = F.normalize(features.float(), dim=1)
        blended = momentum * self.features[positions] + (1 - momentum) * latest
        self.features[positions] = F.normalize(blended, dim=1)

    def negatives(
        self, positions: Int[Tensor, " B"], count: int
    ) -> tuple[Float[Tensor, "J P"], Bool[Tensor, "B J"]]:
        """Features of images drawn at random, and which are of the batch's own images."""
        everything = len(self.features)
        sample = torch.randperm(everything)[:count].to(self.features.device)
        is_own = positions.to(sample.device).unsqueeze(1) == sample
        return self.features[sample], is_own


def kmeans(
    points: Float[Tensor, "N P"], clusters: int
) -> tuple[Float[Tensor, "C P"], Int[Tensor, " N"]]:
    """Spherical k-means: the centres, of unit length, and the cluster of each point.

    An empty cluster takes half of the largest one: its centre restarts beside that one's.
    """
    points = F.normalize(points, dim=1)
    centres = points[torch.randperm(len(points))[:clusters]].clone()
    for _ in range(ITERATIONS):
        nearest = (points @ centres.T).argmax(dim=1)
        sizes = torch.bincount(nearest, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        for empty in (sizes == 0).nonzero().flatten().tolist():
            largest = int(sizes.argmax())
            noise = 1e-2 * torch.randn_like(sums[largest])
            sums[empty] = F.normalize(sums[largest], dim=0) + noise
            sizes[empty] = sizes[largest] // 2
            sizes[largest] -= sizes[empty]
        centres = F.normalize(sums, dim=1)
    return centres, (points @ centres.T).argmax(dim=1)


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "B C"], epsilon: float) -> Float[Tensor, "B C"]:
    """Soft assignments of the batch that use all clusters equally.

    Caron et al., 2020, equation 3 and appendix A, in logarithms. https://arxiv.org/abs/2006.09882
    """
    log = scores.float() / epsilon
    for _ in range(SINKHORN):
        log = log - log.logsumexp(dim=0, keepdim=True)  # each cluster as much as any other
        log = log - log.logsumexp(dim=1, keepdim=True)  # each image in all once
    return log.exp()
