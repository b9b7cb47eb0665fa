"""Runtimes, one a file; `runtimes` lists them."""

from models.registry import Registry
from models.runtimes import Runtime

runtimes: Registry[type[Runtime]] = Registry(__name__)
