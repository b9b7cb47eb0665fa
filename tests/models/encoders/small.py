"""One small instance of each architecture, built without pretrained weights."""

from models.encoders import Architecture
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.efficientnet_lite import EfficientNetLite
from models.encoders.architectures.pooled_rotations import PooledRotations
from models.encoders.architectures.projected import Projected
from models.encoders.architectures.timm import Timm
from models.encoders.architectures.vit import ViT

SMALL: dict[str, Architecture] = {
    "conv4": Conv4(width=8, image_side=32),
    "efficientnet_lite": EfficientNetLite(),
    "pooled_rotations": PooledRotations(base="conv4:8"),
    "projected": Projected(base="conv4:8"),
    "timm": Timm(model="convnext_atto"),
    "vit": ViT(width=24, image_side=16, patch=4, depth=2),
}
