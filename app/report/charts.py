"""Charts as SVG, without scripts, on light and on dark pages."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

NAME_LENGTH = 22  # characters of a label that a chart has room for
MOST_ROWS = 30  # labels of a confusion matrix
# Okabe and Ito, 2008: told apart by colour-blind eyes too. Light enough for a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999933")
MARKS = ("circle", "square", "triangle", "diamond")
STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.note{font-size:11px;fill:#59636e}.end{text-anchor:end}
.middle{text-anchor:middle}.on{fill:#fff}.paper{fill:#fff}.axis{stroke:#59636e;fill:none}
.grid{stroke:#d1d9e0;fill:none}.line{stroke:#0072b2;fill:none;stroke-width:2}.dot{fill:#0072b2}
.ahead{stroke:#d55e00;fill:none;stroke-width:2}.ahead-dot{fill:#d55e00}.shade{fill:#0072b2}
.dash{stroke-dasharray:5 4}.support{stroke:#1f2328;stroke-width:1.2}.key{fill:#59636e}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.paper{fill:#0d1117}
.axis{stroke:#9198a1}.grid{stroke:#3d444d}.line{stroke:#58a6ff}.dot{fill:#58a6ff}
.ahead{stroke:#f0883e}.ahead-dot{fill:#f0883e}.support{stroke:#f0f6fc}.key{fill:#9198a1}}
"""


class Point(NamedTuple):
    """An image on a map."""

    x: float
    y: float
    label: str | None
    doubt: float | None  # 0..1; None for an image whose label is known


class _Frame(NamedTuple):
    """Where the values of two axes lie in a picture."""

    x0: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.x0 + across * self.width, self.top + (1 - up) * self.height


def message(title: str, text: str) -> str:
    """A picture that says why there is no chart."""
    lines = _wrapped(text, 70)
    height = 50 + 18 * len(lines)
    body = [_text(20, 62 + 18 * n, line) for n, line in enumerate(lines)]
    return _picture(540, height, title, [], body)


def learning_curve(
    points: Sequence[tuple[int, float]],
    ahead: tuple[int, float, float, float] | None,
    *,
    labels: int,
) -> str:
    """Accuracy by the number of labels, and what is expected of more.

    Args:
        ahead: labels, accuracy, and the low and high end of its interval.
        labels: that there are.
    """
    most = max([labels, *(n for n, _ in points), *([ahead[0]] if ahead else [])])
    values = [a for _, a in points] + (list(ahead[1:]) if ahead else [])
    floor = max(math.floor((min(values) - 0.02) * 10) / 10, 0.0)
    frame = _Frame(80, 52, 536, 260, (0, most * 1.04), (floor, 1.0))
    body = [*_grid_y(frame), *_grid_x(frame)]
    x, top = frame.place(labels, 1.0)
    body.append(_line("axis dash", [(x, top), frame.place(labels, floor)]))
    body.append(_text(x - 4, top + 14, f"now: {labels}", "note end"))
    places = [frame.place(n, a) for n, a in points]
    body.append(_line("line", places))
    body += [
        _dot(place, "dot", f"{n} labels: {_percent(a)}")
        for place, (n, a) in zip(places, points, strict=True)
    ]
    if ahead:
        n, value, low, high = ahead
        body.append(_line("ahead dash", [places[-1], frame.place(n, value)]))
        ends = frame.place(n, low), frame.place(n, high)
        body.append(_line("ahead", ends))
        body += [_line("ahead", [(x - 6, y), (x + 6, y)]) for x, y in ends]
        interval = f"with 80 % between {_percent(low)} and {_percent(high)}"
        tip = f"{n} labels: {_percent(value)}, {interval}"
        body.append(_dot(frame.place(n, value), "ahead-dot", tip))
    body.append(_text(348, 352, "labeled images", "middle"))
    body.append(_upright(22, 182, "accuracy"))
    says = ["Blue: measured on images that parts of the labels left out."]
    if ahead:
        says.append(
            f"Orange: expected at {ahead[0]} labels, {_percent(ahead[1])}; with 80 % between "
            f"{_percent(ahead[2])} and {_percent(ahead[3])}."
        )
    return _picture(650, 380, "Accuracy by the number of labels", says, body)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Judged images by their label and by what the head takes them for."""
    labels = _most_confused(matrix)
    cell = 34 if len(labels) <= 15 else 24
    x0, top = 52 + 6.6 * max(len(_short(names[i])) for i in labels), 76.0
    side = cell * len(labels)
    body = []
    for row, i in enumerate(labels):
        y = top + row * cell
        body.append(_text(x0 - 8, y + cell / 2 + 4, _short(names[i]), "end", names[i]))
        total = sum(matrix[i])
        for column, j in enumerate(labels):
            share = matrix[i][j] / total if total else 0.0
            body.append(_cell(x0 + column * cell, y, cell, matrix[i][j], share, names, (i, j)))
    for column, j in enumerate(labels):
        x = x0 + (column + 0.5) * cell
        body.append(_slanted(x, top + side + 14, _short(names[j]), names[j]))
    body.append(_text(x0 + side / 2, 64, "taken for", "middle note"))
    body.append(_upright(20, top + side / 2, "label"))
    says = ["Images by their label (rows) and by what is said of them unseen (columns)."]
    if len(labels) < len(names):
        says.append(f"The {len(labels)} most confused of {len(names)} labels.")
    foot = top + side + 30 + 0.65 * x0
    return _picture(max(x0 + side + 40, 480), foot, "What is taken for what", says, body)


def image_map(points: Sequence[Point], explained: tuple[float, float], images: int) -> str:
    """Images in two dimensions, by label and by how sure the head is of it."""
    labels = sorted({p.label for p in points if p.label is not None})
    style = {name: n for n, name in enumerate(labels[: len(COLOURS) * len(MARKS)])}
    xs, ys = [p.x for p in points], [p.y for p in points]
    frame = _Frame(56, 52, 520, 440, _padded(xs), _padded(ys))
    body = [
        f'<rect class="axis" x="{frame.x0}" y="{frame.top}" width="{frame.width}" '
        f'height="{frame.height}"/>'
    ]
    ordered = sorted(points, key=lambda p: p.doubt is None)  # what has a label lies on top
    body += [_mark(frame.place(p.x, p.y), style.get(p.label or ""), p) for p in ordered]
    body.append(_text(316, 512, f"first direction: {_percent(explained[0])} of variance", "middle"))
    body.append(_upright(24, 272, f"second direction: {_percent(explained[1])} of variance"))
    body += _legend(style, len(labels))
    says = ["Outlined: labeled. Others: the likeliest label, the paler the less sure."]
    if len(points) < images:
        says.append(f"A random {len(points)} of {images} images.")
    return _picture(790, 528, "The images in two dimensions", says, body)


def _picture(
    width: float, height: float, title: str, says: Sequence[str], body: Iterable[str]
) -> str:
    """A picture with a title, and below the chart what there is to say of it."""
    notes = [_text(20, height + 12 + 16 * n, line, "note") for n, line in enumerate(says)]
    height += 10 + 16 * len(notes)
    description = " ".join(says)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc><style>{STYLE}</style>"
        f'<rect class="paper" width="100%" height="100%"/>{_text(20, 28, title, "title")}'
        f"{''.join(body)}{''.join(notes)}</svg>\n"
    )


def _text(x: float, y: float, text: str, style: str = "", tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip and tip != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{title}{escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    return (
        f'<text class="middle" transform="translate({x:.1f} {y:.1f}) rotate(-90)">'
        f"{escape(text)}</text>"
    )


def _slanted(x: float, y: float, text: str, tip: str) -> str:
    title = f"<title>{escape(tip)}</title>" if tip != text else ""
    return (
        f'<text class="end" transform="translate({x:.1f} {y:.1f}) rotate(-40)">'
        f"{title}{escape(text)}</text>"
    )


def _line(style: str, places: Iterable[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{style}" points="{path}"/>'


def _dot(place: tuple[float, float], style: str, tip: str) -> str:
    x, y = place
    return (
        f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(tip)}</title>'
        "</circle>"
    )


def _grid_y(frame: _Frame) -> Iterable[str]:
    for value in _ticks(*frame.y):
        x, y = frame.place(frame.x[0], value)
        yield _line("grid", [(x, y), (frame.x0 + frame.width, y)])
        yield _text(x - 8, y + 4, f"{100 * value:.0f} %", "end")


def _grid_x(frame: _Frame) -> Iterable[str]:
    x, y = frame.place(frame.x[0], frame.y[0])
    yield _line("axis", [(x, y), (frame.x0 + frame.width, y)])
    for value in _ticks(*frame.x):
        x, _ = frame.place(value, frame.y[0])
        yield _line("axis", [(x, y), (x, y + 5)])
        yield _text(x, y + 20, f"{value:.0f}", "middle")


def _ticks(low: float, high: float) -> list[float]:
    """About five round values between two others."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _most_confused(matrix: Sequence[Sequence[int]]) -> list[int]:
    """The labels to show, in their order."""
    wrong = [
        sum(row) + sum(column) - 2 * row[i]
        for i, (row, column) in enumerate(zip(matrix, zip(*matrix, strict=True), strict=True))
    ]
    return sorted(sorted(range(len(matrix)), key=lambda i: -wrong[i])[:MOST_ROWS])


def _cell(
    x: float,
    y: float,
    side: float,
    count: int,
    share: float,
    names: Sequence[str],
    pair: tuple[int, int],
) -> str:
    tip = f"{names[pair[0]]}, taken for {names[pair[1]]}: {count} ({_percent(share)})"
    middle, base = x + side / 2, y + side / 2 + 4
    number = _text(middle, base, str(count), "middle on" if share > 0.7 else "middle")
    return (
        f'<g><title>{escape(tip)}</title><rect class="grid" x="{x:.1f}" y="{y:.1f}" '
        f'width="{side}" height="{side}"/><rect class="shade" fill-opacity="{share:.2f}" '
        f'x="{x:.1f}" y="{y:.1f}" width="{side}" height="{side}"/>{number if count else ""}</g>'
    )


def _mark(place: tuple[float, float], style: int | None, point: Point) -> str:
    colour = "#8b949e" if style is None else COLOURS[style % len(COLOURS)]
    shape = MARKS[(style or 0) // len(COLOURS)]
    labeled = point.doubt is None and point.label is not None
    tip = point.label or "no label yet"
    if point.doubt is not None:
        tip += f"? {_percent(1 - point.doubt)}"
    opacity = (
        1.0 if labeled else 0.1 + 0.7 * (1 - (point.doubt if point.doubt is not None else 0.5))
    )
    return (
        f'<path class="{"support" if labeled else ""}" fill="{colour}" '
        f'fill-opacity="{opacity:.2f}" d="{_shape(shape, *place, 5 if labeled else 3.5)}">'
        f"<title>{escape(tip)}</title></path>"
    )


def _shape(name: str, x: float, y: float, r: float) -> str:
    if name == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    if name == "square":
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"
    if name == "triangle":
        return f"M{x:.1f} {y - r:.1f}l{r} {2 * r}h{-2 * r}z"
    return f"M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"


def _legend(style: dict[str, int], labels: int) -> Iterable[str]:
    for row, (name, n) in enumerate(list(style.items())[:24]):
        y = 62 + 18 * row
        yield (
            f'<path fill="{COLOURS[n % len(COLOURS)]}" '
            f'd="{_shape(MARKS[n // len(COLOURS)], 602, y, 5)}"/>'
        )
        yield _text(614, y + 4, _short(name), "", name)
    if labels > 24:
        yield _text(596, 62 + 18 * 24 + 4, f"and {labels - 24} more labels", "note")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
