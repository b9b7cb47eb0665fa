"""Encoder versions: immutable weights that projects point at."""

from dataclasses import asdict, dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from uuid import UUID

import safetensors
import safetensors.torch
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.encoders.weights import check_weights, store_weights
from app.sql.blob_marks import unmark
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.lookups import find_project
from app.sql.tables import EncoderVersion, ProjectVersion, TrainingImage
from app.storage.blobs import Blobs
from models.encoders import Architecture, Encoder, EncoderUnavailable
from models.encoders.architectures import architectures
from models.encoders.specs import spec
from models.training.checkpoint import pack, unpack


@dataclass(frozen=True)
class Versions:
    """The history of encoders. Weights never change; only a project's pointer moves."""

    db: Database
    blobs: Blobs
    device: torch.device

    @retry_conflicts
    def get_or_create(self, name: str, architecture: Architecture) -> UUID:
        """The version of a pretrained architecture, made from its weights when it is new.

        Raises:
            EncoderUnavailable: its weights cannot be had here.
        """
        options = json_options(architecture)
        versions = self._find(name, options)
        file = getattr(architecture, "weights", None)
        may_have_changed = file is not None and Path(file).is_file()
        if versions and not may_have_changed:
            return versions[0].id
        encoder = architecture.build()
        while True:
            weights = self.store(encoder)
            for version in versions:
                if version.weights == weights:
                    return version.id
            with self.db.writing() as session:
                if not unmark(session, [weights]):
                    continue
                version = EncoderVersion(
                    architecture=name,
                    options=options,
                    weights=weights,
                    embedding_dim=encoder.embedding_dim,
                )
                session.add(version)
            return version.id

    def store(self, encoder: Encoder) -> str:
        """Store the weights of an encoder; the SHA-256 of their file."""
        return store_weights(self.blobs, encoder)

    def store_learner(self, document: dict[str, Any]) -> str:
        """Store what was learned beside the weights of an encoder; the SHA-256 of its file."""
        return self.blobs.put(pack(document))

    @retry_conflicts
    def upload(self, project_id: UUID, like: UUID, file: Path) -> UUID:
        """Add a version with weights that a client brought.

        Args:
            like: the version whose architecture the weights are for; it becomes the parent.

        Raises:
            UnsupportedMediaType: the file is not safetensors.
            WeightsRefused: the tensors are not those of the architecture.
            ProjectNotFound: the project was deleted meanwhile.
        """
        with self.db.reading() as session:
            parent = session.get_one(EncoderVersion, like)
        check_weights(file, _build(parent).state_dict())
        while True:
            with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
                weights = self.blobs.put(content)
            with self.db.writing() as session:
                if not unmark(session, [weights]):
                    continue
                find_project(session, str(project_id), lock=True)
                version = derive_version(parent, weights)
                session.add(version)
                session.flush()
                owned = ProjectVersion(encoder_id=version.id, project_id=project_id, metrics={})
                session.add(owned)
                seal(session)
            return version.id

    def base(self, version_id: UUID) -> UUID:
        """The nearest version, this one or an ancestor, that learned from no labels."""
        with self.db.reading() as session:
            return lineage(session, version_id)[-1].id

    def load(self, version_id: UUID) -> Encoder:
        """Rebuild the encoder with its weights, on the device.

        Raises:
            EncoderUnavailable: this installation does not know the architecture, or the weights
                are gone.
        """
        with self.db.reading() as session:
            version = session.get_one(EncoderVersion, version_id)
        encoder = _build(version)
        try:
            weights = self.blobs.get(version.weights)
        except FileNotFoundError as error:
            raise EncoderUnavailable(
                f"the weights file {version.weights} of version {version_id} is missing from "
                "the blob store; restore it from a backup"
            ) from error
        encoder.load_state_dict(safetensors.torch.load(weights))
        return encoder.to(self.device).eval()

    def learner(self, version_id: UUID) -> dict[str, Any] | None:
        """What a version has learned beside its weights, as it was stored; None: nothing.

        Raises:
            EncoderUnavailable: its file is gone.
            ValueError: its file is damaged.
        """
        with self.db.reading() as session:
            digest = session.get_one(EncoderVersion, version_id).learner
        if digest is None:
            return None
        try:
            return unpack(self.blobs.get(digest))
        except FileNotFoundError as error:
            raise EncoderUnavailable(
                f"the file {digest} of the steps that version {version_id} has learned is missing "
                "from the blob store; restore it from a backup"
            ) from error

    def _find(self, name: str, options: dict[str, object]) -> list[EncoderVersion]:
        """The pretrained versions of an architecture, newest first."""
        with self.db.reading() as session:
            versions = session.scalars(
                select(EncoderVersion)
                .where(EncoderVersion.architecture == name, EncoderVersion.parent_id.is_(None))
                .order_by(EncoderVersion.id.desc())
            )
            return [version for version in versions if version.options == options]


def derive_version(
    parent: EncoderVersion, weights: str, *, projected: bool = False
) -> EncoderVersion:
    """A new version of the same architecture, or of one with a projection behind it."""
    architecture, options = parent.architecture, parent.options
    if projected and architecture != "projected":
        base = spec(architectures[architecture](**options), architecture)
        architecture, options = "projected", {"base": base}
    return EncoderVersion(
        architecture=architecture,
        options=options,
        weights=weights,
        embedding_dim=parent.embedding_dim,
        parent_id=parent.id,
    )


def lineage(session: Session, version_id: UUID) -> list[EncoderVersion]:
    """A version and its ancestors, up to the nearest of them that learned from no labels."""
    versions = [session.get_one(EncoderVersion, version_id)]
    while (parent := versions[-1].parent_id) is not None and _has_learned(session, versions[-1].id):
        versions.append(session.get_one(EncoderVersion, parent))
    return versions


def _build(version: EncoderVersion) -> Encoder:
    """The architecture of a version, its weights still to come."""
    plugin = architectures.get(version.architecture)
    if plugin is None:
        raise EncoderUnavailable(
            f"version {version.id} needs the encoder {version.architecture!r}, which this "
            "installation does not have"
        )
    return plugin(**version.options).build(pretrained=False)


def _has_learned(session: Session, version_id: UUID) -> bool:
    query = select(TrainingImage.image_id).where(TrainingImage.encoder_id == version_id).limit(1)
    return session.scalar(query) is not None


def json_options(architecture: Architecture) -> dict[str, object]:
    """Options as JSON data."""
    options: dict[str, object] = asdict(architecture)  # type: ignore[call-overload]
    return {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
