"""This machine, and what was measured on it before."""

import os

import pytest

from models.runtimes import measurements
from models.runtimes.measurements import Measurements, is_busy, processor


def test_the_processor_has_a_name():
    assert processor()


def test_a_machine_is_busy_when_half_of_its_cores_were(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 0.0, 0.0))
    assert not is_busy()
    monkeypatch.setattr(os, "getloadavg", lambda: (2.1, 0.0, 0.0))
    assert is_busy()


def test_what_was_found_is_found_again_under_its_words(tmp_path):
    measured = Measurements(tmp_path / "new")
    assert measured.find("speed", "of a") is None

    measured.keep({"fast": True}, "speed", "of a")

    assert Measurements(tmp_path / "new").find("speed", "of a") == {"fast": True}
    assert measured.find("speed", "of b") is None
    assert [file.suffix for file in (tmp_path / "new").iterdir()] == [".json"]


@pytest.mark.parametrize(
    ("name", "change"),
    [("processor", lambda: "another"), ("LIBRARIES", ("torch", "an other library"))],
)
def test_it_does_not_hold_for_another_machine_or_other_libraries(
    monkeypatch, tmp_path, name, change
):
    measured = Measurements(tmp_path)
    measured.keep(1, "speed")

    monkeypatch.setattr(measurements, name, change)

    assert measured.find("speed") is None


def test_without_a_folder_or_room_nothing_is_kept(tmp_path):
    nowhere = Measurements(None)
    nowhere.keep(1, "speed")
    assert nowhere.find("speed") is None

    (tmp_path / "file").write_text("")
    no_room = Measurements(tmp_path / "file")
    no_room.keep(1, "speed")
    assert no_room.find("speed") is None
