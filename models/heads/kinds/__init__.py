"""Heads, one a file; `heads` lists them."""

from models.heads import Head
from models.registry import Registry

heads: Registry[type[Head]] = Registry(__name__)
