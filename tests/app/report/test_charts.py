"""Charts are well-formed, escape what they are told and show every value."""

import re
from xml.etree import ElementTree

import pytest

from app.report import charts

NASTY = "<script>alert(1)</script> & \"'"
PICTURES = {
    "learning_curve": charts.learning_curve([(4, 0.5), (8, 0.75)], (20, 0.8, 0.7, 0.9), labels=10),
    "learning_curve, no forecast": charts.learning_curve([(4, 0.0)], None, labels=5),
    "confusion": charts.confusion([[3, 1], [0, 5]], [NASTY, "b" * 200]),
    "image_map": charts.image_map(
        [charts.Point(0.0, 1.0, NASTY, None), charts.Point(1.0, 0.0, "b" * 200, 0.25)],
        (0.5, 0.25),
        1000,
    ),
    "image_map, one place": charts.image_map(
        [charts.Point(0.0, 0.0, None, None)] * 2, (0.0, 0.0), 2
    ),
    "message": charts.message("Title", f"{NASTY} {'word ' * 60}"),
}


def elements(picture: str, kind: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(picture)
    return list(root.iter(f"{{http://www.w3.org/2000/svg}}{kind}"))


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_xml_without_scripts_and_says_what_it_is(picture):
    root = ElementTree.fromstring(picture)

    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {
        "svg", "title", "desc", "style", "rect", "text", "circle", "polyline", "path", "g",
    }  # fmt: skip
    assert not re.search(r"\b(?:nan|inf)\b|href|url\(", picture)
    assert root[0].text
    assert "prefers-color-scheme:dark" in picture


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_nothing_lies_outside_the_picture(picture):
    root = ElementTree.fromstring(picture)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])

    for kind in ("text", "circle", "rect"):
        for element in elements(picture, kind):
            for side, names in ((width, ("x", "cx")), (height, ("y", "cy"))):
                for name in names:
                    assert 0 <= float(element.get(name, 0)) <= side


def test_names_are_shown_as_text_and_long_ones_in_full_when_pointed_at():
    picture = PICTURES["confusion"]

    told = {element.text for element in elements(picture, "title")}
    assert NASTY in told
    assert "b" * 200 in told
    assert f"{'b' * 21}…" in {"".join(e.itertext()) for e in elements(picture, "text")} | {
        e[-1].tail for e in elements(picture, "text") if len(e)
    }


def test_the_confusion_chart_has_every_count_and_its_share():
    told = [element.text for element in elements(PICTURES["confusion"], "title")]

    assert f"{NASTY}, taken for {'b' * 200}: 1 (25.0 %)" in told


def test_of_many_labels_the_most_confused_are_shown():
    size = 40
    matrix = [[9 if i == j else 0 for j in range(size)] for i in range(size)]
    matrix[38][39] = 5

    picture = charts.confusion(matrix, [f"n{i}" for i in range(size)])

    texts = [element.text for element in elements(picture, "text")]
    assert "The 30 most confused of 40 labels." in texts
    assert "n38" in texts
    assert "n39" in texts
    assert "n37" not in texts


def test_the_learning_curve_marks_every_point_and_the_interval():
    picture = PICTURES["learning_curve"]

    told = [element.text for element in elements(picture, "title")]
    assert "4 labels: 50.0 %" in told
    assert "20 labels: 80.0 %, with 80 % between 70.0 % and 90.0 %" in told
    low, high = (
        float(e.attrib["points"].split(",")[-1]) for e in elements(picture, "polyline")[-2:]
    )
    assert 0 < low - high < 260  # pixels; y grows downwards


def test_the_less_sure_the_paler():
    points = [charts.Point(0.0, 0.0, "a", 0.0), charts.Point(1.0, 1.0, "a", 0.9)]

    picture = charts.image_map(points, (0.5, 0.2), 2)

    sure, unsure = (
        float(e.attrib["fill-opacity"]) for e in elements(picture, "path") if e.get("fill-opacity")
    )
    assert sure > unsure > 0
