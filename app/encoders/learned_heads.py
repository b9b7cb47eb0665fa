"""How a project's head is built from its choice: in closed form, or with a learned network."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

import safetensors.torch
from sqlalchemy import select

from app.encoders.weights import store_weights
from app.problems import HeadInUse, HeadUnavailable
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.head_choices import LEARNED, Learned, document, find_learned_head
from app.sql.lookups import find_project, page_of
from app.sql.tables import EncoderVersion, LearnedHead, Project
from app.storage.blobs import Blobs
from models.generation.mover import MovedCentroids
from models.heads import Head
from models.heads.kinds import heads
from models.heads.network import HeadModule
from models.metalearning.heads import HeadMethod
from models.metalearning.learners import learners

MOST_NETWORKS = 4  # in memory
MOVED = "moved_centroids"  # the method of a head that `generate` has learned


class HeadView(NamedTuple):
    """A learned head as its project sees it."""

    head: LearnedHead
    current: bool  # whether it serves the project


class LearnedHeads:
    """The heads that jobs have learned. Their weights never change; a project names one, or none.

    A head fits the encoder version on whose embeddings it was learned. Whoever promotes another one
    gives the project `auto` in its place.
    """

    def __init__(self, db: Database, blobs: Blobs) -> None:
        self.db = db
        self.blobs = blobs
        self._networks: OrderedDict[UUID, HeadModule] = OrderedDict()
        self._lock = threading.Lock()

    def build(self, choice: Mapping[str, Any]) -> Head:
        """The head that a project names, not fitted yet.

        Raises:
            HeadUnavailable: its network cannot be had.
        """
        if choice["name"] != LEARNED:
            head: Head = heads[choice["name"]](**choice["options"])
            return head
        return self._network(UUID(choice["options"]["learned"])).head()

    def page(self, project_key: str, after: UUID | None, limit: int) -> list[HeadView]:
        """The learned heads of a project, newest first."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            query = select(LearnedHead).where(LearnedHead.project_id == project.id)
            rows = page_of(query, LearnedHead.id, after, limit, newest_first=True)
            return [_view(project, head) for head in session.scalars(rows)]

    def read(self, project_key: str, head_id: UUID) -> HeadView:
        """One of them.

        Raises:
            HeadNotFound: the project has no such head.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            return _view(project, find_learned_head(session, project, head_id))

    @retry_conflicts
    def delete(self, project_key: str, head_id: UUID) -> None:
        """Forget one; a sweep removes its weights.

        Raises:
            HeadNotFound: the project has no such head.
            HeadInUse: it serves the project.
        """
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            view = _view(project, find_learned_head(session, project, head_id))
            if view.current:
                raise HeadInUse(
                    f"head {head_id} serves project {project.name!r}: give it another head first"
                )
            session.delete(view.head)

    def store(self, network: HeadModule) -> str:
        """Store the weights of a network; the SHA-256 of their file."""
        return store_weights(self.blobs, network)

    def _network(self, head_id: UUID) -> HeadModule:
        with self._lock:
            network = self._networks.get(head_id) or self._load(head_id)
            self._networks[head_id] = network
            self._networks.move_to_end(head_id)
            if len(self._networks) > MOST_NETWORKS:
                self._networks.popitem(last=False)
            return network

    def _load(self, head_id: UUID) -> HeadModule:
        with self.db.reading() as session:
            head = session.get(LearnedHead, head_id)
            if head is None:
                raise HeadUnavailable(f"learned head {head_id} was deleted")
            dim = session.get_one(EncoderVersion, head.encoder_id).embedding_dim
        method = MovedCentroids if head.method == MOVED else learners.get(head.method)
        if method is None:
            raise HeadUnavailable(
                f"head {head_id} was learned by {head.method!r}, which this installation lacks"
            )
        options = method(**head.options)
        assert isinstance(options, HeadMethod | MovedCentroids)
        network = options.network(dim)
        try:
            weights = self.blobs.get(head.weights)
        except FileNotFoundError as error:
            raise HeadUnavailable(
                f"the weights file {head.weights} of head {head_id} is missing from the blob "
                "store: restore it from a backup, or give the project another head"
            ) from error
        network.load_state_dict(safetensors.torch.load(weights))
        return network.eval().requires_grad_(False)


def _view(project: Project, head: LearnedHead) -> HeadView:
    return HeadView(head, project.head == document(LEARNED, Learned(learned=head.id)))
