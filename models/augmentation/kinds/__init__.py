"""Augmentations, one a file; `augmentations` lists them."""

from models.augmentation import Augmentation
from models.registry import Registry

augmentations: Registry[type[Augmentation]] = Registry(__name__)
