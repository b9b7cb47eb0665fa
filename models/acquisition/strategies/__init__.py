"""Acquisition strategies, one a file; `strategies` lists them."""

from models.acquisition import AcquisitionStrategy
from models.registry import Registry

strategies: Registry[type[AcquisitionStrategy]] = Registry(__name__)
