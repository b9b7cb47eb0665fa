"""Methods of self-supervised pretraining, one a file; `methods` lists them."""

from models.pretraining import PretrainingMethod
from models.registry import Registry

methods: Registry[type[PretrainingMethod]] = Registry(__name__)
