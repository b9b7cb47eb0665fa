"""Heads: from the embeddings of support images to the classes of queries."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from models.registry import Registry


@runtime_checkable
class FittedHead(Protocol):
    """A head that knows its classes."""

    @property
    def centroids(self) -> Float[Tensor, "C D"]: ...

    def similarities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Cosine of each query to each centroid."""
        ...

    def probabilities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Probability of each class; rows sum to 1."""
        ...


@runtime_checkable
class Head(Protocol):
    """The options of one head."""

    @property
    def uses_mean(self) -> bool:
        """Whether `fit` needs the mean embedding of all images of the project."""
        ...

    def fit(
        self,
        embeddings: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        mean: Float[Tensor, " D"] | None = None,
    ) -> FittedHead:
        """Learn from labeled embeddings.

        Args:
            targets: the class of each row, from 0 to `classes - 1`; each class occurs.

        Raises:
            ValueError: a class has no shot.
        """
        ...


heads: Registry[type[Head]] = Registry(__name__)
