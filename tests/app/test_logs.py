"""Logs are a JSON object a line."""

import io
import json
import logging

import pytest

from app.logs import configure, logger


@pytest.fixture
def lines(monkeypatch):
    """What is logged, as it stands in the log."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    monkeypatch.setattr(root, "level", root.level)
    configure("info")
    written = io.StringIO()
    monkeypatch.setattr(root.handlers[0], "stream", written)
    return lambda: [json.loads(line) for line in written.getvalue().splitlines()]


def test_an_event_has_its_values_its_level_and_its_time(lines):
    logger("handful.test").warning("it rains", where="here")

    (line,) = lines()
    assert (line["event"], line["where"]) == ("it rains", "here")
    assert (line["level"], line["logger"]) == ("warning", "handful.test")
    assert line["timestamp"].endswith("Z")


def test_libraries_log_in_the_same_way_and_chatty_ones_less(lines):
    logging.getLogger("a.library").info("hello %s", "world")
    logging.getLogger("httpx").info("a request")

    assert [line["event"] for line in lines()] == ["hello world"]


def test_an_exception_is_told_in_its_line(lines):
    try:
        int("no")
    except ValueError:
        logger("handful.test").exception("it broke")

    assert "ValueError: invalid literal" in lines()[0]["exception"]
