"""Which head a project has with another version."""

from uuid import UUID

from app.sql.head_choices import Learned, document, without_learned
from models.heads.kinds.cosine import Cosine

HEAD = UUID(int=7)


def test_a_choice_is_kept_as_json():
    assert document("learned", Learned(learned=HEAD)) == {
        "name": "learned",
        "options": {"learned": str(HEAD)},
    }
    assert document("cosine", Cosine())["options"] == {"temperature": None, "centered": False}


def test_a_learned_head_stays_with_its_version():
    closed = document("cosine", Cosine())

    assert without_learned(document("learned", Learned(learned=HEAD)))["name"] == "auto"
    assert without_learned(closed) == closed
