"""Figures summed up, and printed as tables."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sklearn.metrics import recall_score
from torch import Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")
WIDE = 8  # columns; a wider table is turned


def timed(
    work: Callable[[], Value], clock: Callable[[], float] = time.perf_counter
) -> tuple[Value, float]:
    """What a function gives, and its seconds."""
    started = clock()
    return work(), clock() - started


def rate(work: Callable[[Value], Any], items: Sequence[Value], threads: int) -> float:
    """Items a second, of which so many are in work at a time."""
    with ThreadPoolExecutor(threads) as pool:
        _, seconds = timed(lambda: list(pool.map(work, items)))
    return len(items) / seconds


def rate_of_turns(turn: Callable[[], int], seconds: float) -> float:
    """Items a second of something that is repeated for a while, and says how many it did."""
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        count += turn()
    return count / passed


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return float(sum(values) / len(values))


def means(rows: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    """Of each figure, over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: round(mean([row[name] for row in rows if name in row]), digits) for name in names}


def spread(values: Sequence[float], digits: int = 3, *, median: str = "median") -> dict[str, float]:
    """Median, by its name, lowest and highest."""
    return {
        median: round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def spreads(rows: Sequence[Mapping[str, float]], digits: int = 3) -> dict[str, dict[str, float]]:
    """Median, lowest and highest of each figure."""
    return {name: spread([row[name] for row in rows], digits) for name in rows[0]}


def percentiles(values: Sequence[float], *percents: int, name: str = "p{}") -> dict[str, float]:
    """The values that so many percent lie below, by name; not a number where there are none."""
    ordered = sorted(values) or [math.nan]
    places = {percent: min(len(ordered) - 1, len(ordered) * percent // 100) for percent in percents}
    return {name.format(percent): round(ordered[place], 1) for percent, place in places.items()}


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Values by what they count under, in the order in which that comes first."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def mean_recall(truth: Tensor, answers: Tensor) -> float:
    """The share of right answers, over labels that have images."""
    return float(recall_score(truth, answers, labels=sorted(set(truth.tolist())), average="macro"))


def progress(items: Sequence[Value], name: str, every: int = 20) -> Iterator[Value]:
    """Items one after the other, and now and then how many are over."""
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0:
            print(f"{number}/{len(items)} {name}", flush=True)


def in_words(value: Any) -> str:
    """A figure, a mean with half of its interval, or a median between extremes, in words."""
    if isinstance(value, Mapping) and "median" not in value:
        return ", ".join(f"{name} {in_words(figure)}" for name, figure in value.items())
    if isinstance(value, Mapping):
        words = {name: in_words(figure) for name, figure in value.items()}
        return "{median} [{lowest}, {highest}]".format_map(words)
    if isinstance(value, list | tuple):
        if len(value) == 2 and isinstance(value, tuple):
            return in_words(value[0]) + ("" if value[1] is None else f" ± {in_words(value[1])}")
        return "{} [{}, {}]".format(*map(in_words, value)) if len(value) == 3 else str(value)
    if isinstance(value, float):
        return f"{value:.1f}" if 100 <= abs(value) < math.inf else f"{value:.3g}"
    return str(value)


def print_figures(name: str, figures: Any) -> None:
    """Tables of figures in figures: the innermost names are columns, those around them rows."""
    if not _depth(figures):
        if not isinstance(figures, list):
            print(f"{name}: {in_words(figures)}")
        return
    if _depth(figures) <= 2:
        rows = {key: value if _depth(value) else {"": value} for key, value in figures.items()}
        _print_table(name, rows)
        return
    for key, value in figures.items():
        print_figures(f"{name}, {key}", value)


def _depth(figures: Any) -> int:
    if not isinstance(figures, Mapping) or "median" in figures:
        return 0
    return 1 + max(map(_depth, figures.values()), default=0)


def _print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    table = [[title, *columns]]
    table += [[name, *(in_words(row.get(c, "")) for c in columns)] for name, row in rows.items()]
    if len(columns) > max(WIDE, len(rows)):
        table = [list(column) for column in zip(*table, strict=True)]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*table, strict=True)]
    print()
    for first, *cells in table:
        line = [str(cell).rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([str(first).ljust(widths[0]), *line]))
