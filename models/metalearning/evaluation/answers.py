"""What heads on stored embeddings answer in episodes: of one size at once, or one by one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import Head, center_and_normalize, softmax
from models.heads.calibration import fit_temperatures
from models.heads.kinds.cosine import EXPECTED_CENTERED, EXPECTED_TEMPERATURE, Cosine
from models.metalearning.episodes import Episode


class EpisodeModel(NamedTuple):
    """What is judged: a head on the embeddings of an encoder."""

    head: Head
    embeddings: Float[Tensor, "N D"]  # as they are stored, of these images and maybe of others
    mean: Float[Tensor, " D"] | None = None  # of all images; for heads that are centred
    rows: Int[Tensor, " M"] | None = None  # of the embedding of each image; None: as they come

    def embeddings_of(self, positions: Int[Tensor, "*R Q"]) -> Float[Tensor, "*R Q D"]:
        """Those of some images; all others stay where they are."""
        rows = positions if self.rows is None else self.rows[positions]
        return self.embeddings[rows]


def class_probabilities(model: EpisodeModel, episodes: Sequence[Episode]) -> Float[Tensor, "R Q C"]:
    """Of each class for the queries of episodes of one size."""
    head, mean = model.head, model.mean
    if isinstance(head, Cosine):
        support = model.embeddings_of(torch.stack([e.support for e in episodes]))
        query = model.embeddings_of(torch.stack([e.query.flatten() for e in episodes]))
        return nearest_centroids(head, support, query, mean if head.centered else None)
    (episode,) = episodes
    ways, shots = episode.support.shape
    targets = torch.arange(ways).repeat_interleave(shots)
    support = model.embeddings_of(episode.support.flatten())
    fitted = head.fit(support, targets, ways, mean if head.uses_mean else None)
    return fitted.probabilities(model.embeddings_of(episode.query.flatten()))[None].float()


def nearest_centroids(
    head: Cosine,
    support: Float[Tensor, "R C K D"],
    query: Float[Tensor, "R Q D"],
    mean: Float[Tensor, " D"] | None,
) -> Float[Tensor, "R Q C"]:
    """What the head says in many episodes of one size, fitted to each as it fits itself.

    Args:
        mean: None, unless the head is centred.
    """
    episodes, ways, shots, dim = support.shape
    normalized = center_and_normalize(support.reshape(-1, dim), mean).double().view(support.shape)
    sums = normalized.sum(dim=2)  # (R, C, D)
    centroids = F.normalize(sums, dim=2)
    temperatures = torch.full((episodes,), head.temperature or _expected(head)).double()
    if head.temperature is None and shots > 1:
        units = F.normalize(normalized, dim=3)
        cosines = units.flatten(1, 2) @ centroids.transpose(1, 2)  # (R, C K, C)
        own = (units * F.normalize(sums[:, :, None] - normalized, dim=3)).sum(dim=3)
        targets = torch.arange(ways).repeat_interleave(shots)
        cosines[:, torch.arange(len(targets)), targets] = own.flatten(1)
        temperatures = fit_temperatures(cosines, targets, _expected(head))
    units = F.normalize(center_and_normalize(query.reshape(-1, dim), mean), dim=1).view(query.shape)
    scores = units @ centroids.float().transpose(1, 2) / temperatures.float()[:, None, None]
    return softmax(scores.flatten(0, 1)).view(scores.shape)


def _expected(head: Cosine) -> float:
    """The temperature where there is nothing to fit it on."""
    return EXPECTED_CENTERED if head.centered else EXPECTED_TEMPERATURE
