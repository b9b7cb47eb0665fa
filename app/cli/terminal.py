"""What a terminal shows: tables, reports, and jobs as they go on."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from handful.client import Handful, JobUnsuccessful
from handful.contract.jobs import EventRead, JobRead
from handful.contract.report import IntervalRead, ReportRead

ENOUGH = {True: "yes", False: "no", None: "cannot be told yet"}


def watch(client: Handful, project: str, job: UUID, console: Console) -> str:
    """Show what happens to a job until it ends; the state in which it did."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    with bar:
        task = bar.add_task("queued", total=1.0, note="")
        try:
            ended = client.wait(project, job, lambda event: _show(bar, task, event))
        except JobUnsuccessful as failure:
            ended = failure.job
    console.print(_outcome(ended), highlight=False)
    return str(ended.state)


def print_jobs(jobs: Iterable[JobRead]) -> None:
    """Jobs as a table, as they came."""
    print_table(
        ("job", "kind", "state", "created", "outcome"),
        (
            (job.id, job.kind, job.state, f"{job.created_at:%Y-%m-%d %H:%M:%S}", _short(job))
            for job in jobs
        ),
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for a person; where nobody looks, a line a row with tabs, and nothing is broken.

    Ids and numbers keep their line in either; the last column gets what room is left.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(str(cell) for cell in row))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console().print(table)


def print_report(report: ReportRead) -> None:
    """How good a project is, in a few lines and a row a label."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{report.support} labeled images, {report.pool} in the pool", markup=False)
    if report.accuracy:
        console.print(f"accuracy {_interval(report.accuracy)}", markup=False)
    if report.calibration:
        console.print(f"calibration error {100 * report.calibration.error:.1f} %", markup=False)
    if report.forecast:
        console.print(
            f"with {report.forecast.labels} labels: {_interval(report.forecast.accuracy)}",
            markup=False,
        )
    if report.label_errors:
        console.print(f"labels that are probably wrong: {len(report.label_errors)}", markup=False)
    console.print(f"enough? {ENOUGH[report.enough.answer]}: {report.enough.reason}", markup=False)
    print_table(
        ("label", "shots", "recall", "precision"),
        (
            (
                figures.label,
                figures.shots,
                _interval(figures.recall) if figures.recall else "",
                _interval(figures.precision) if figures.precision else "",
            )
            for figures in report.labels
        ),
    )


def _interval(interval: IntervalRead) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.value:.1f} % ({low:.1f} to {high:.1f})"


def _show(bar: Progress, task: TaskID, event: EventRead) -> None:
    data = event.data
    if event.kind == "state":
        reason = data.get("reason") or data.get("error")
        bar.update(task, description=data["state"])
        if reason:
            bar.console.print(f"{data['state']}: {reason}", highlight=False)
    elif event.kind == "message":
        bar.console.print(data["text"], highlight=False)
    elif data.get("stage") == "training":
        share = (data["run"] - 1 + data["epoch"] / data["epochs"]) / data["runs"]
        where = f"fold {data['fold']}" if data["fold"] else "all images"
        accuracy = "" if data["accuracy"] is None else f", held-out {100 * data['accuracy']:.1f} %"
        bar.update(
            task,
            completed=share,
            description=f"{data['method']}, {where}",
            note=f"loss {data['loss']:.3f}{accuracy}, about {data['seconds_left']:.0f} s left",
        )
    elif data.get("stage") == "pretraining":
        known = data["accuracy"]
        accuracy = "" if known is None else f", neighbours tell {100 * known:.1f} %"
        bar.update(
            task,
            completed=data["epoch"] / data["epochs"],
            description=data["method"],
            note=f"loss {data['loss']:.3f} of {data['chance']:.3f} by chance{accuracy}, "
            f"rank {data['rank']:.0f}, about {data['seconds_left']:.0f} s left",
        )
    elif data.get("stage") == "search":
        bar.update(
            task,
            completed=data["trial"] / data["trials"],
            description=f"trial {data['trial']} of {data['trials']}",
            note=f"score {data['score']:.3f}, held-out {100 * data['accuracy']:.1f} %, "
            f"about {data['seconds_left']:.0f} s left",
        )
    elif data.get("stage") == "transduction":
        share = (data["run"] - 1 + data["epoch"] / data["epochs"]) / data["runs"]
        bar.update(
            task,
            completed=share,
            description="the whole pool" if data["fold"] is None else f"fold {data['fold']}",
            note=f"loss {data['loss']:.3f}, about {data['seconds_left']:.0f} s left",
        )
    elif data.get("stage") == "embedding":
        total = data["done"] + data["left"]
        bar.update(
            task,
            completed=data["done"] / max(1, total),
            description="embedding",
            note=f"{data['done']} of {total} images",
        )


def _outcome(job: JobRead) -> str:
    if job.state != "succeeded":
        return f"{job.state}: {job.error}" if job.error else str(job.state)
    return f"succeeded: {_short(job)}"


def _short(job: JobRead) -> str:
    """What came out, in a line."""
    result = job.result or {}
    if job.error:
        return job.error
    if "augmentation" in result:
        return _augmentation(result)
    if "changed" in result:
        return (
            f"{result['changed']} of {result['images']} images get another label than by the head; "
            f"{result['verdict']['reason']}"
        )
    if "promoted" not in result:
        return ""
    done = "promoted" if result["promoted"] else "not promoted"
    verdict = result.get("verdict")
    return f"version {result['version']} {done}" + (f"; {verdict['reason']}" if verdict else "")


def _augmentation(result: dict[str, Any]) -> str:
    names = " and ".join(one["name"] for one in result["augmentation"])
    own = f", of their own for {', '.join(result['per_class'])}" if result["per_class"] else ""
    return f"{names}{own}; {result['verdict']['reason']}"
