"""Whether a project has groups to learn from, and a machine the memory for what is generated."""

from collections.abc import Sequence
from typing import Any

import torch
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.planning.suitability import Suitability
from app.problems import GroupsDoNotSuffice, NotEnoughMemory
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Embedding, Image, Label, Project
from models.generation import FEWEST
from models.training.memory import memory_of

MIB = 1 << 20
NUMBER = 4  # bytes


def generation_suitability(
    db: Database, project_key: str, name: str, kind: type[Any]
) -> Suitability:
    """How the job suits a project."""
    with db.reading() as session:
        project = find_project(session, project_key)
        query = select(Image.label_id, func.count()).where(Image.project_id == project.id)
        shots = {row[0]: row[1] for row in session.execute(query.group_by(Image.label_id))}
        try:
            require_groups(session, project)
            refused = None
        except GroupsDoNotSuffice as error:
            refused = error.detail
    labels = sum(count >= FEWEST for label, count in shots.items() if label is not None)
    return Suitability(name, kind, sum(shots.values()), labels, refused, None)


def require_groups(session: Session, project: Project) -> None:
    """Refuse a project in which two groups of `FEWEST` images cannot be.

    Raises:
        GroupsDoNotSuffice: names what is missing.
    """
    rows = session.execute(
        select(Label.name, func.count(Image.id))
        .outerjoin(Image, Image.label_id == Label.id)
        .where(Label.project_id == project.id)
        .group_by(Label.id, Label.name)
        .order_by(func.count(Image.id).desc(), Label.name)
    )
    shots = [(str(row[0]), int(row[1])) for row in rows]
    pool = session.scalars(
        select(func.count(Image.id)).where(
            Image.project_id == project.id,
            Image.label_id.is_(None),
            Embedding.image_id == Image.id,
            Embedding.encoder_id == project.encoder_id,
        )
    ).one()
    large = sum(count >= FEWEST for _, count in shots)
    missing_groups = 2 - large
    missing_pool = max(0, missing_groups * FEWEST - pool)
    if missing_groups <= 0 or not missing_pool:
        return
    raise GroupsDoNotSuffice(
        f"two groups of {FEWEST} images are needed to learn from, labels or clusters of the pool; "
        f"{_described(shots, large)}, and the pool has {pool} images with an embedding: add "
        f"{missing_pool} image(s) to the pool, or {_short(shots, missing_groups)}",
        missing_groups=missing_groups,
        missing_pool_images=missing_pool,
        missing_images={name: FEWEST - count for name, count in shots if count < FEWEST},
    )


def require_memory_for_samples(options: Any) -> None:
    """Refuse to generate more embeddings than this machine has memory for.

    Raises:
        NotEnoughMemory: says how many would fit.
    """
    samples = getattr(options, "samples", 0)
    available = memory_of(torch.device("cpu"))
    if not samples or available is None:
        return
    each = NUMBER * (options.latent + 2 * options.width + options.components)
    if samples * each > available:
        raise NotEnoughMemory(
            f"{samples} generated embeddings take {samples * each // MIB} MiB, and there are "
            f"{available // MIB}: ask for {available // each} `samples` or fewer",
            memory_mib=samples * each // MIB,
            available_mib=available // MIB,
            fitting=[{"options": {"samples": available // each}}],
        )


def _described(shots: Sequence[tuple[str, int]], large: int) -> str:
    if not shots:
        return "there is no label"
    name, most = shots[0]
    return f"{large} of {len(shots)} label(s) have as many ({name!r} has most, {most})"


def _short(shots: Sequence[tuple[str, int]], missing: int) -> str:
    """What labels lack."""
    short = [(name, FEWEST - count) for name, count in shots if count < FEWEST][:missing]
    parts = [f"{count} to label {name!r}" for name, count in short]
    if missing > len(short):
        parts.append(f"{missing - len(short)} more label(s) with {FEWEST} images")
    return " and ".join(parts)
