"""Small encoders of both kinds."""

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.vit import ViT

SIDE = 48


def conv() -> Encoder:
    return Conv4(width=8, image_side=SIDE).build()


def vit() -> Encoder:
    return ViT(width=24, image_side=SIDE, depth=2, heads=2).build()
