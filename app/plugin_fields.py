"""Fields that accept a plug-in by name, with its own options."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, create_model


def plugin_field(registry: Mapping[str, Any], tag: str = "name") -> Any:
    """A field that accepts any plug-in by name, with its own options.

    The OpenAPI document lists every plug-in and its defaults, and a new file adds itself.

    Args:
        tag: the member that holds the name.
    """
    variants = tuple(_variant(name, plugin, tag) for name, plugin in registry.items())
    if len(variants) == 1:
        return variants[0]
    return Annotated[Union[variants], Field(discriminator=tag)]  # noqa: UP007


def _variant(name: str, plugin: Any, tag: str) -> Any:
    complete = all(
        field.default is not MISSING or field.default_factory is not MISSING
        for field in fields(plugin)
    )
    members: dict[str, Any] = {
        tag: (Literal[name], name),
        "options": (forbid_extra(plugin), Field(default_factory=plugin) if complete else Field()),
    }
    return create_model(
        f"{plugin.__name__}Choice",
        __config__=ConfigDict(extra="forbid"),
        __doc__=(plugin.__doc__ or "").partition("\n")[0],
        **members,
    )


def plugins_from(kind: Any, documents: list[dict[str, Any]]) -> list[Any]:
    """Plug-ins from their JSON documents."""
    plugins: list[Any] = TypeAdapter(list[kind]).validate_python(documents)
    return plugins


def forbid_extra(plugin: Any) -> Any:
    """The options dataclass, and those within it, refusing fields that they do not have."""
    plugin.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    for kind in get_type_hints(plugin).values():
        if is_dataclass(kind):
            forbid_extra(kind)
    return plugin
