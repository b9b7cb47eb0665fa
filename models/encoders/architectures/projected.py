"""Another encoder with a learned projection behind it."""

from dataclasses import dataclass

from models.encoders import Encoder
from models.encoders.architectures import architectures
from models.encoders.projection import project
from models.encoders.specs import parse


@architectures.register
@dataclass(frozen=True, kw_only=True)
class Projected:
    """What feature extraction makes: the encoder `base`, and a linear layer on its embeddings."""

    base: str = "efficientnet_lite:0"

    def __post_init__(self) -> None:
        if self.base.partition(":")[0] == "projected":
            raise ValueError("a projection of a projection is one projection: name the base alone")
        parse(self.base)

    def build(self, *, pretrained: bool = True) -> Encoder:
        return project(parse(self.base)[1].build(pretrained=pretrained))
