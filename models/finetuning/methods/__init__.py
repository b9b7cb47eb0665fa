"""Ways to fine-tune, one a file; `methods` lists them."""

from models.finetuning import FinetuningMethod
from models.registry import Registry

methods: Registry[type[FinetuningMethod]] = Registry(__name__)
