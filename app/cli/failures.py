"""What can be expected to go wrong, in one sentence for a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

DEMO = {"sklearn", "scipy"}  # packages of which only demo and bench make use
OURS = {"app", "handful", "models"}


def fail(message: str) -> NoReturn:
    """End the command with a sentence."""
    typer.echo(f"handful: {message}", err=True)
    sys.exit(1)


@contextmanager
def explained() -> Iterator[None]:
    """End with one sentence where an error has one; whatever is a defect of ours passes."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OURS:
            raise
        extra = "demo" if package in DEMO else "server"
        fail(
            f"{package!r} is not installed, which this command needs: "
            f"pip install 'handful[{extra}]'"
        )
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        fail(sentence)


def _sentence(error: Exception) -> str | None:
    """What an error says to who started the command; None where it is a defect."""
    if isinstance(error, _expected()):
        return str(error)
    if _is(error, "pydantic_core", "ValidationError"):
        return "\n".join(_setting(one) for one in error.errors())  # type: ignore[attr-defined]
    if _is(error, "sqlalchemy.exc", "SQLAlchemyError"):
        return f"the database cannot be used: {getattr(error, 'orig', None) or error}"
    return None


def _expected() -> tuple[type[Exception], ...]:
    """Errors whose message is that sentence; of modules that were loaded, no more can be raised."""
    classes = (
        ("app.cli.benchmark", "NoPhotos"),
        ("app.cli.benchmark", "ServiceDidNotStart"),
        ("app.cli.demo", "DemoRefused"),
        ("app.cli.label_studio", "CannotLink"),
        ("app.main", "StartRefused"),
        ("app.problems", "AddressRefused"),
        ("app.problems", "AddressUnreachable"),
        ("app.sql.database", "SchemaOutOfDate"),
        ("app.sql.database", "UnsafeSQLite"),
        ("handful.files", "CannotWrite"),
        ("handful.folders", "NothingToImport"),
        ("handful.retries", "RequestRefused"),
        ("handful.retries", "ServiceUnreachable"),
        ("models.encoders", "EncoderUnavailable"),
        ("models.runtimes", "RuntimeUnavailable"),
    )
    return tuple(getattr(sys.modules[m], name) for m, name in classes if m in sys.modules)


def _is(error: Exception, module: str, name: str) -> bool:
    """Whether an error is of a class of a module, if that was loaded."""
    return module in sys.modules and isinstance(error, getattr(sys.modules[module], name))


def _setting(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    return f"HANDFUL_{str(error['loc'][0]).upper()}={error['input']!r}: {message}"
