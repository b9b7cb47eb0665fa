"""Charts of a report, over HTTP."""

from tests.app.report.conftest import CHARTS, chart, support


def test_charts_show_the_labels_and_escape_them(birds, png):
    names = ("a<b>&c", "plain")
    for name, colour in zip(names, ("red", "blue"), strict=True):
        support(birds, name, *(png(colour, n) for n in range(12)))
    birds.post("/v1/projects/birds/pool", files=[("files", png("purple"))])

    for name in CHARTS:
        root, text = chart(birds, name)
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert "<b>" not in text
        assert "script" not in text
    assert "a&lt;b&gt;&amp;c" in chart(birds, "confusion")[1]
    assert "a&lt;b&gt;&amp;c" in chart(birds, "map")[1]
