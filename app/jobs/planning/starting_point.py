"""Which weights a training without the project's labels, or across labels, starts from."""

from typing import Any
from uuid import UUID

import torch

from app.jobs.context import JobContext
from app.plugin_fields import plugin_field
from app.sql.tables import EncoderVersion
from models.encoders import Architecture, Encoder
from models.encoders.architectures import architectures

EncoderChoice: Any = plugin_field(architectures)


def architecture_of(choice: Any | None, version: EncoderVersion) -> Architecture:
    """The architecture that was chosen, or that of a version."""
    if choice is not None:
        architecture: Architecture = choice.options
        return architecture
    return architectures[version.architecture](**version.options)


def encoder_to_start_from(
    context: JobContext, base: UUID, choice: Any | None, *, fresh: bool, seed: int
) -> Encoder:
    """That of a version, or one with random weights, the same ones for a seed."""
    encoder = context.through_outages(lambda: context.versions.load(base))
    if not fresh:
        return encoder
    with context.db.reading() as session:
        version = session.get_one(EncoderVersion, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = architecture_of(choice, version).build(pretrained=False)
    return random.to(encoder.mean.device)
