"""Tasks in processes of their own, and peers that answer questions in theirs."""

import functools
import json
import multiprocessing
import os
import pickle
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from bench.figures import in_words
from bench.harness import Options

SCRIPTS = Path(__file__).parent / "peers"
Task = TypeVar("Task")
Value = TypeVar("Value")
Figures = dict[str, Any]


class Peer:
    """A script of `bench/peers` that answers questions, one after the other."""

    def __init__(self, python: Path, script: str, threads: int | None = None) -> None:
        environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent.parent)}
        if threads is not None:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        command = [python, SCRIPTS / f"{script}.py"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)

    def ask(self, question: Any) -> Any:
        """The answer to a question; EOFError when the script failed, which says why."""
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self) -> None:
        """Say that there are no more questions."""
        self._process.communicate()


@functools.cache
def peer_of_process(python: Path, script: str) -> Peer:
    """A peer of one thread for all tasks of this process, with which it ends."""
    return Peer(python, script, threads=1)


def ask_peer(
    python: Path,
    script: str,
    items: Sequence[Any],
    question: Callable[[Any], Any] = lambda item: item,
    *,
    processes: int = 1,
    threads: int | None = None,
) -> list[Any]:
    """A peer's answers to questions about items, from so many processes."""

    def answers(share: int) -> list[Any]:
        with closing(Peer(python, script, threads)) as peer:
            return [peer.ask(question(item)) for item in items[share::processes]]

    with ThreadPoolExecutor(processes) as pool:
        shares = list(pool.map(answers, range(processes)))
    return [shares[n % processes][n // processes] for n in range(len(items))]


def run_all(
    work: Callable[[Task], Figures],
    tasks: Sequence[Task],
    options: Options,
) -> dict[Task, Figures]:
    """The figures of tasks, from as many processes as `--processes` says; each is told as it comes.

    With `--resume` they are written to its file, a task a line, and those that are there are read.
    """
    file: Path | None = getattr(options, "resume", None)
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    saved = dict(json.loads(line) for line in lines)
    keys = {task: f"{work.__name__} {task!r}" for task in tasks}
    outcomes = {task: saved[key] for task, key in keys.items() if key in saved}
    remaining = [task for task in tasks if task not in outcomes]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for task, figures in pool.imap_unordered(functools.partial(_pair, work), remaining):
            if file is not None:
                with file.open("a") as journal:
                    journal.write(json.dumps([keys[task], figures]) + "\n")
            outcomes[task] = figures
            print(f"{len(outcomes)}/{len(tasks)} {task}: {in_words(figures)}", flush=True)
    return {task: outcomes[task] for task in tasks}


def _pair(work: Callable[[Task], Figures], task: Task) -> tuple[Task, Figures]:
    return task, work(task)


def alone(work: Callable[..., Value], *arguments: Any) -> Value:
    """What a function gives in a new process, so that memory and caches are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)
