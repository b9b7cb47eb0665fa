"""What a terminal shows: tables, reports, and jobs as they go on."""

import sys
from collections.abc import Iterable, Sequence
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from handful.client import Handful, JobUnsuccessful
from handful.contract.evaluate import DifferenceRead, EvaluatedModelRead, EvaluationRead
from handful.contract.jobs import (
    EventRead,
    Figure,
    JobRead,
    MessageEvent,
    MetricsEvent,
    StateEvent,
)
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
    if report.optimistic:
        console.print(report.optimistic, markup=False)
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
                _interval(figures.recall),
                _interval(figures.precision),
            )
            for figures in report.labels
        ),
    )


def print_evaluation(evaluation: EvaluationRead) -> None:
    """How models do, a row a number of shots and model, and by how much they differ."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{evaluation.done} of {evaluation.episodes} episodes, from {evaluation.images} images of "
        f"{len(evaluation.labels)} labels",
        markup=False,
    )
    for model in evaluation.models:
        if model.learned_images:
            console.print(
                f"encoder {model.encoder} or head {model.head['name']} learned from "
                f"{model.learned_images} of the labeled images, or from their labels: on them they "
                "do better than on new ones",
                markup=False,
            )
    for reason in evaluation.missing:
        console.print(reason, markup=False)
    several = len({model.encoder for model in evaluation.models}) > 1
    names = [_model_name(model, several=several) for model in evaluation.models]
    print_table(
        ("shots", "head", "over episodes", "over images", "over labels", "calibration error"),
        (
            (
                part.shots,
                names[figures.model],
                _interval(figures.over_episodes),
                _interval(figures.over_images),
                _interval(figures.over_labels),
                ""
                if figures.calibration_error is None
                else f"{100 * figures.calibration_error:.1f} %",
            )
            for part in evaluation.shots
            for figures in part.models
        ),
    )
    if len(names) > 1:
        print_table(
            ("shots", "better by", "over episodes", "over images"),
            (
                (
                    part.shots,
                    f"{names[pair.first]} than {names[pair.second]}",
                    _interval(pair.over_episodes),
                    _interval(pair.over_images),
                )
                for part in evaluation.shots
                for pair in part.differences
            ),
        )


def _model_name(model: EvaluatedModelRead, *, several: bool) -> str:
    name = str(model.head["name"])
    return f"{name} on {model.encoder}" if several else name


def _interval(interval: IntervalRead | DifferenceRead | None) -> str:
    if interval is None:
        return ""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.value:.1f} % ({low:.1f} to {high:.1f})"


def _show(bar: Progress, task: TaskID, event: EventRead) -> None:
    """Whatever the kind of the job: all of them tell the same."""
    if isinstance(event, StateEvent):
        change = event.data
        reason = change.reason or change.error
        bar.update(task, description=str(change.state))
        if reason:
            bar.console.print(f"{change.state}: {reason}", highlight=False)
    elif isinstance(event, MessageEvent):
        bar.console.print(event.data.text, highlight=False)
    elif isinstance(event, MetricsEvent):
        progress = event.data
        notes = [_figure(figure) for figure in progress.figures]
        if progress.seconds_left is not None:
            notes.append(f"about {progress.seconds_left:.0f} s left")
        bar.update(
            task,
            completed=progress.share,
            description=progress.title or progress.stage,
            note=", ".join(notes),
        )


def _figure(figure: Figure) -> str:
    if figure.unit == "share":
        return f"{figure.name} {100 * figure.value:.1f} %"
    return f"{figure.name} {figure.value:.4g} {figure.unit}".rstrip()


def _outcome(job: JobRead) -> str:
    outcome = _short(job)
    return f"{job.state}: {outcome}" if outcome else str(job.state)


def _short(job: JobRead) -> str:
    """What came out, in a line."""
    return job.error or (job.result.summary if job.result else "")
