"""What can be expected to go wrong, in one sentence."""

import pytest

from app.cli.failures import explained
from handful import ServiceUnreachable


@pytest.mark.parametrize(
    ("module", "extra"), [("torch", "server"), ("sqlalchemy.orm", "server"), ("sklearn", "demo")]
)
def test_a_command_without_its_part_says_what_to_install(module, extra, capsys):
    with pytest.raises(SystemExit), explained():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    assert capsys.readouterr().err == (
        f"handful: {module.partition('.')[0]!r} is not installed, which this command needs: "
        f"pip install 'handful[{extra}]'\n"
    )


def test_a_module_of_ours_that_is_missing_is_a_defect():
    with pytest.raises(ModuleNotFoundError), explained():
        raise ModuleNotFoundError("No module named 'app.nothing'", name="app.nothing")


def test_an_error_with_a_sentence_ends_with_it(capsys):
    with pytest.raises(SystemExit), explained():
        raise ServiceUnreachable("no service answers there")

    assert capsys.readouterr().err == "handful: no service answers there\n"


def test_any_other_error_passes():
    with pytest.raises(ZeroDivisionError), explained():
        raise ZeroDivisionError
