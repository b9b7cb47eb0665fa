"""Problems say what went wrong, as RFC 9457 has it."""

from app.problems import AlreadyLabeled, Problem


def test_a_problem_is_named_after_its_class_and_titled_by_its_docstring():
    problem = AlreadyLabeled("ann said so", label="wren")

    assert problem.document() == {
        "type": "/problems/already-labeled",
        "title": "Someone else has labeled the image differently",
        "status": 409,
        "detail": "ann said so",
        "label": "wren",
    }


def test_every_problem_has_a_title_and_a_status_of_an_error():
    kinds, titles = [Problem], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        document = kind("why").document()
        assert document["title"]
        assert 400 <= document["status"] < 600
        titles.add(document["title"])

    assert len(titles) > 30
