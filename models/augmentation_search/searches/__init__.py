"""Searches for augmentation policies, one a file; `searches` lists them."""

from models.augmentation_search import Search
from models.registry import Registry

searches: Registry[type[Search]] = Registry(__name__)
