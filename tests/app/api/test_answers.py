"""What several routes answer with."""

import pytest

from app.api.answers import refuse_if_all_failed
from app.problems import Failed, FileTooLarge, ImageNotDecodable, NothingStored


def failures(count):
    return [Failed(n, f"{n}.png", ImageNotDecodable(f"damage {n}")) for n in range(count)]


def test_a_request_of_which_something_could_be_used_is_not_refused():
    refuse_if_all_failed([], 0)
    refuse_if_all_failed(failures(2), 1)


def test_the_one_file_of_a_request_is_refused_with_its_own_problem():
    with pytest.raises(FileTooLarge) as refused:
        refuse_if_all_failed([Failed(0, "a.png", FileTooLarge("too large", limit=9))], 0)

    members = refused.value.members
    assert (members["limit"], members["position"], members["filename"]) == (9, 0, "a.png")


def test_of_many_each_has_its_reason():
    with pytest.raises(
        NothingStored, match="none of 3 files could be used; the first: damage 0"
    ) as e:
        refuse_if_all_failed(failures(3), 0)

    failed = e.value.members["failed"]
    assert [document["problem"]["detail"] for document in failed] == [
        "damage 0",
        "damage 1",
        "damage 2",
    ]
