"""Ways to say where the rest of a class lies, one file each."""

from models.generation import TargetKind
from models.registry import Registry

generators: Registry[type[TargetKind]] = Registry(__name__)
