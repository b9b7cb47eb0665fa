"""Encoders as settings name them: `name:option@weights`, and back."""

import re
from dataclasses import fields
from typing import get_type_hints

from models.encoders import Architecture, EncoderUnavailable
from models.encoders.architectures import architectures


def parse(spec: str) -> tuple[str, Architecture]:
    """The architecture that a setting names: `name[:first][,option=value...][@weights]`.

    `efficientnet_lite:0`, `timm:resnet18.a1_in1k`, `timm:resnet18@weights.safetensors`,
    `conv4:32,image_side=64`. What stands after the name alone is the first option of the
    architecture; of one that changes another encoder, `base`, it is that encoder.

    Raises:
        EncoderUnavailable: there is no such architecture, or it refuses the options.
    """
    name, *_ = re.split("[:,@]", spec.strip(), maxsplit=1)
    if name not in architectures:
        raise EncoderUnavailable(
            f"there is no encoder {name!r}; known are {', '.join(architectures)}"
        )
    plugin = architectures[name]
    try:
        return name, plugin(**_options(plugin, spec.strip().removeprefix(name)))
    except (ValueError, TypeError) as error:
        raise EncoderUnavailable(f"encoder {spec!r} cannot be used: {error}") from error


def spec(architecture: Architecture, name: str) -> str:
    """The setting that names an architecture: the inverse of `parse`."""
    first, *remaining = fields(architecture)  # type: ignore[arg-type]
    weights = getattr(architecture, "weights", None)
    return (
        f"{name}:{getattr(architecture, first.name)}"
        + "".join(
            f",{option.name}={value}"
            for option in remaining
            if option.name != "weights"
            and (value := getattr(architecture, option.name)) != option.default
        )
        + (f"@{weights}" if weights else "")
    )


def _options(plugin: type[Architecture], text: str) -> dict[str, object]:
    """What a setting says behind the name of an architecture."""
    first, *_ = names = [option.name for option in fields(plugin)]  # type: ignore[arg-type]
    if first == "base":
        return {"base": text.removeprefix(":")} if text else {}
    values, _, weights = text.partition("@")
    options: dict[str, object] = {"weights": weights} if weights else {}
    for part in filter(None, values.removeprefix(":").split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            option, value = first, part
        if option not in names:
            raise ValueError(f"it has no option {option!r}, only {', '.join(names)}")
        options[option] = int(value) if get_type_hints(plugin)[option] is not str else value
    return options
