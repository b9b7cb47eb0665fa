"""Kinds of jobs, one a file; `kinds` lists them."""

from app.jobs.context import JobKind
from models.registry import Registry

kinds: Registry[type[JobKind]] = Registry(__name__)
