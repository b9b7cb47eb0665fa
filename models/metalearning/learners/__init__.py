"""Ways to meta-learn, one a file; `learners` lists them."""

from models.metalearning import MetaMethod
from models.registry import Registry

learners: Registry[type[MetaMethod]] = Registry(__name__)
