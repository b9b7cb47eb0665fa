"""HTTP: one module per resource: parse, call one use case, show."""

import importlib
import pkgutil

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """The `router` of every resource: of each module in this folder that has one."""
    modules = (
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    )
    return [module.router for module in modules if hasattr(module, "router")]
