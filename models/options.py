"""Bounds of options, and what is said when one is out of them."""


def require_within(
    name: str, value: float | int | None, least: float | int, most: float | int
) -> None:
    """Refuse an option out of bounds; None is left to `fit`.

    Raises:
        ValueError: it is out of bounds, or not a number.
    """
    if value is not None and not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, got {value}")
