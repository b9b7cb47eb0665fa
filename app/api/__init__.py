"""HTTP: one module per resource: parse, call one use case, show."""

import importlib
import pkgutil
from typing import Any

from fastapi import APIRouter, Depends

from app.api.raw_images import RawImageRoute
from app.http.openapi import operation_id
from app.http.parameters import refuse_unknown_parameters


def resource_router(prefix: str = "", *, tags: list[Any]) -> APIRouter:
    """A router of a resource: routes refuse parameters that they lack, and bound their bodies."""
    return APIRouter(
        prefix=prefix,
        route_class=RawImageRoute,
        tags=tags,
        dependencies=[Depends(refuse_unknown_parameters)],
        generate_unique_id_function=operation_id,
    )


def routers() -> list[APIRouter]:
    """The `router` of every resource: of each module in this folder that has one."""
    modules = (
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    )
    return [module.router for module in modules if hasattr(module, "router")]
