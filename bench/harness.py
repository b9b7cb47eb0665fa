"""The skeleton of every benchmark: its options, `--quick`, `--check`, saving and the headline."""

import argparse
import inspect
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.inference.process import look_past_what_stays
from bench.figures import print_figures
from models.runtimes.measurements import processor

RESULTS = Path(__file__).parent / "results"
PEERS = Path.home() / ".cache/handful-bench/bin/python"
Options = argparse.Namespace


class Option(NamedTuple):
    """An option of a benchmark, and what it is with `--quick`."""

    flag: str
    quick: Any
    settings: dict[str, Any]  # of argparse
    peers: str = ""  # who is skipped where the path that it names is not there


class Result(NamedTuple):
    """What a benchmark measured."""

    figures: dict[str, Any]  # that `--save` writes
    headline: str
    goal_met: bool


NO_PEER = Result({}, "no peer to compare with", goal_met=False)


def option(flag: str, default: Any = None, *, quick: Any = None, **settings: Any) -> Option:
    """An option; a number is of the type of its default."""
    if isinstance(default, int | float) and not isinstance(default, bool):
        settings["type"] = type(default)
    return Option(flag, quick, {"default": default, **settings})


def peers(names: str, default: Path = PEERS, note: str = "their Python") -> Option:
    """Where the peers are, in an environment of their own; None where that was not made."""
    return Option("--peers", None, {"type": Path, "default": default, "help": note}, names)


PHOTOS = option("--images", type=Path, help="folder of photos instead of scikit-learn's")
FOLDERS = option(
    "--images", [], type=Path, nargs="*", help="folders of class folders, beside digits"
)
ENCODER = option("--encoder", "efficientnet_lite:0")
NETWORK = option("--network", "auto", help="null:1 for one that sleeps a millisecond a batch")
PROCESSES = option("--processes", os.cpu_count())
RESUME = option("--resume", type=Path, help="keep outcomes here, and go on from those there")
SERVERS = option("--servers", 1, help="that share a PostgreSQL; SQLite has one")
BUCKET = option("--bucket", False, action="store_true", help="files on an S3 server of moto's")
DATABASE = option("--database", choices=["sqlite", "postgresql"], help="only this one")


def run(measure: Callable[[Options], Result], *options: Option) -> None:
    """Measure, keep the result, print the headline as the last line, and exit by `--check`.

    `--help` shows the docstring of its module. SIGTERM ends it and all that it has started.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that contexts are left
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    values = _parse(inspect.getdoc(inspect.getmodule(measure)), options)
    look_past_what_stays()  # which would count as the server's delay
    result = measure(values)
    if values.save:
        _save(values.save, result)
    for name, figures in result.figures.items():
        print_figures(name, figures)
    print(result.headline)
    if values.check and not result.goal_met:
        sys.exit(1)


def _parse(description: str | None, options: tuple[Option, ...]) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small run that shows it works")
    parser.add_argument("--check", action="store_true", help="exit 1 when a promise is broken")
    parser.add_argument("--save", metavar="NAME", help="keep the result as bench/results/NAME.json")
    actions = [parser.add_argument(option.flag, **option.settings) for option in options]
    values = parser.parse_args()
    for action, option in zip(actions, options, strict=True):
        if values.quick and option.quick is not None:
            setattr(values, action.dest, option.quick)
        path = getattr(values, action.dest)
        if option.peers and not path.exists():
            print(f"{option.peers}: skipped, {path} is not there; make bench-peers", flush=True)
            setattr(values, action.dest, None)
    return values


def _save(name: str, result: Result) -> None:
    document = {
        "command": f"python -m bench.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count() or 1,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "headline": result.headline,
        **result.figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
