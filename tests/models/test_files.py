"""Files that others may read while they are written."""

import pytest

from models.files import replace_file, staged


def test_a_file_has_its_new_content_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "new" / "file.json"

    replace_file(path, b"first")
    replace_file(path, b"second")

    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_files_are_where_they_were_until_all_are_written(tmp_path):
    replace_file(tmp_path / "a", b"old")

    with staged(tmp_path) as folder:
        (folder / "a").write_bytes(b"new")
        (folder / "b").write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert not (tmp_path / "b").exists()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": b"new",
        "b": b"new",
    }


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    replace_file(tmp_path / "a", b"old")

    def write_half() -> None:
        with staged(tmp_path) as folder:
            (folder / "a").write_bytes(b"ne")
            raise RuntimeError("the lights went out")

    with pytest.raises(RuntimeError, match="lights"):
        write_half()

    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_to_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        replace_file(tmp_path / "file" / "a", b"new")
