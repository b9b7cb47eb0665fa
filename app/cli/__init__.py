"""The command `handful`; what asks a service loads neither PyTorch nor a database."""

import typer

from app.cli import asking, serving, transfer
from app.cli.failures import explained

app = typer.Typer(
    help="Few-shot and active labeling of images: a handful of labels is enough.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(serving.commands)
app.add_typer(transfer.commands)
app.add_typer(asking.commands)
app.add_typer(asking.jobs, name="jobs")
app.add_typer(asking.label_studio, name="label-studio")


def main() -> None:
    """Run the command; what can be expected to go wrong ends with one sentence."""
    with explained():
        app()
