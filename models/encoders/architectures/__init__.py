"""Encoder architectures, one a file; `architectures` lists them."""

from models.encoders import Architecture
from models.registry import Registry

architectures: Registry[type[Architecture]] = Registry(__name__)
