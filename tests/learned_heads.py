"""Heads as jobs leave them, without the jobs."""

from uuid import UUID

import torch

from app.api.parts import Parts
from app.sql.lookups import find_project
from app.sql.tables import EncoderVersion, Job, LearnedHead
from handful.contract.jobs import JobState
from models.metalearning.learners.feat import Feat


def add_learned_head(parts: Parts, project: str, version: UUID | None = None) -> UUID:
    """A head whose network is random.

    Args:
        version: on whose embeddings it works; None: the one that serves.
    """
    torch.manual_seed(0)
    with parts.db.reading() as session:
        owner = find_project(session, project)
        version = version or owner.encoder_id
        network = Feat(width=4).network(session.get_one(EncoderVersion, version).embedding_dim)
    torch.nn.init.normal_(network.get_parameter("out.weight"))
    weights = parts.learned_heads.store(network)
    with parts.db.writing() as session:
        job = Job(
            project_id=owner.id,
            kind="metatrain",
            options={},
            fingerprint="",
            state=JobState.SUCCEEDED,
        )
        session.add(job)
        session.flush()
        head = LearnedHead(
            project_id=owner.id,
            encoder_id=version,
            job_id=job.id,
            method="feat",
            options={"width": 4},
            weights=weights,
            metrics={"better": True, "reason": "it is", "images": 9, "accuracy": 0.75},
        )
        session.add(head)
    return head.id
