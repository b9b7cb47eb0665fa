"""Kinds of jobs, one a file; `kinds` lists them."""

from typing import Any

from pydantic import TypeAdapter

from app.jobs.context import JobKind
from app.jobs.job_queue import JobQueue
from app.sql.lookups import find_project
from app.sql.tables import Job
from models.registry import Registry, plugin_name

kinds: Registry[type[JobKind]] = Registry(__name__)


def build(kind: str, options: dict[str, Any]) -> JobKind:
    """The options of a job as they were stored."""
    job: JobKind = TypeAdapter(kinds[kind]).validate_python(options)
    return job


def submit(queue: JobQueue, project_key: str, options: JobKind) -> Job:
    """Queue a job.

    Raises:
        Problem: the project is not ready for it, or has the same job in work.
    """
    kind = plugin_name(options)
    with queue.db.reading() as session:
        checked = options.check(session, find_project(session, project_key))
    stored = TypeAdapter(type(options)).dump_python(checked.options, mode="json")
    return queue.enqueue(project_key, kind, stored, checked.input_fingerprint)
