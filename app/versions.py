"""Encoder versions: immutable weights that projects point at."""

from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import safetensors.torch
import torch
from sqlalchemy import select

from app.db import Database
from app.storage import Blobs
from app.tables import EncoderVersion, Image, Job
from models.encoders import Architecture, Encoder, EncoderUnavailable, architectures


@dataclass(frozen=True)
class Versions:
    """The history of encoders. Weights never change; only a project's pointer moves."""

    db: Database
    blobs: Blobs
    device: torch.device

    def ensure(self, name: str, architecture: Architecture) -> UUID:
        """The version of a pretrained architecture, made from its weights when it is new.

        Raises:
            EncoderUnavailable: its weights cannot be had here.
        """
        options = _portable(architecture)
        known = self._find(name, options)
        file = getattr(architecture, "weights", None)
        may_have_changed = file is not None and Path(file).is_file()
        if known and not may_have_changed:
            return known[0].id
        encoder = architecture.build()
        weights = self.blobs.put(safetensors.torch.save(encoder.state_dict()))
        for version in known:
            if version.weights == weights:
                return version.id
        with self.db.writing() as session:
            version = EncoderVersion(
                architecture=name,
                options=options,
                weights=weights,
                embedding_dim=encoder.embedding_dim,
            )
            session.add(version)
        return version.id

    def load(self, version_id: UUID) -> Encoder:
        """Rebuild the encoder with its weights, on the device.

        Raises:
            EncoderUnavailable: this installation does not know the architecture, or the weights
                are gone.
        """
        with self.db.reading() as session:
            version = session.get_one(EncoderVersion, version_id)
        plugin = architectures.get(version.architecture)
        if plugin is None:
            raise EncoderUnavailable(
                f"version {version_id} needs the encoder {version.architecture!r}, which this "
                "installation does not have"
            )
        encoder = plugin(**version.options).build(pretrained=False)
        try:
            weights = self.blobs.get(version.weights)
        except FileNotFoundError as error:
            raise EncoderUnavailable(
                f"the weights file {version.weights} of version {version_id} is missing from "
                "the blob store; restore it from a backup"
            ) from error
        encoder.load_state_dict(safetensors.torch.load(weights))
        return encoder.to(self.device).eval()

    def blob_in_use(self, digest: str) -> bool:
        """Whether a file holds an image, the weights of a version or the checkpoint of a job."""
        with self.db.reading() as session:
            return any(
                session.scalar(select(column).where(column == digest).limit(1)) is not None
                for column in (EncoderVersion.weights, Image.sha256, Job.checkpoint)
            )

    def _find(self, name: str, options: dict[str, object]) -> list[EncoderVersion]:
        """The pretrained versions of an architecture, newest first."""
        with self.db.reading() as session:
            versions = session.scalars(
                select(EncoderVersion)
                .where(EncoderVersion.architecture == name, EncoderVersion.parent_id.is_(None))
                .order_by(EncoderVersion.id.desc())
            )
            return [version for version in versions if version.options == options]


def _portable(architecture: Architecture) -> dict[str, object]:
    """Options as JSON data."""
    options: dict[str, object] = asdict(architecture)  # type: ignore[call-overload]
    return {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
