"""Ways to meta-learn, one file each: of encoders, and of heads on embeddings that stay."""

from models.metalearning import MetaMethod
from models.metalearning.heads import HeadMethod
from models.registry import Registry

learners: Registry[type[MetaMethod] | type[HeadMethod]] = Registry(__name__)
