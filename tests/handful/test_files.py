"""A file that is whole or not there."""

import pytest

from handful.files import CannotWrite, replacing, shares


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "x.zip"

    with replacing(path, force=False) as file:
        file.write(b"whole")
        assert not path.exists()

    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"old")

    with pytest.raises(TypeError), replacing(path, force=True) as file:
        file.write("no bytes")  # type: ignore[call-overload]

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_overwritten_only_on_demand(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"old")

    with pytest.raises(CannotWrite, match="--force"), replacing(path, force=False):
        pass
    with replacing(path, force=True) as file:
        file.write(b"new")

    assert path.read_bytes() == b"new"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(CannotWrite, match="No such file or directory"),
        replacing(tmp_path / "none" / "x.zip", force=False),
    ):
        pass


def test_splits_are_words_with_a_share():
    assert shares(["train=0.8", "test=.2"]) == {"train": 0.8, "test": 0.2}
    assert shares([]) is None
    with pytest.raises(CannotWrite, match="of the form"):
        shares(["train"])
