"""The command `handful`, as `python -m app.cli`."""

from app.cli import main

main()
