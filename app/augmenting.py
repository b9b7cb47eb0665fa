"""Augmentation policies: who gets which, and what they make of an image of a project."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import torch
from pydantic import Field
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session
from torch import Generator, Tensor

from app.choices import choice
from app.labeling import Labeling
from app.problems import ImageNotDecodable, ImageNotFound, InvalidRequest
from app.projects import find_project
from app.tables import Image, Label, Project
from models.augmentation import Augmentation
from models.augmentation.contact_sheet import contact_sheet, draw_views
from models.augmentation.kinds import augmentations
from models.augmentation.per_class import PerClassPolicies
from models.images import Preprocessing

AugmentationChoice: Any = choice(augmentations)
Policy: Any = Annotated[
    list[AugmentationChoice],
    Field(max_length=10, description="Applied one after the other; empty: the images as they are."),
]
PerLabel: Any = Annotated[
    dict[str, Policy],
    Field(
        max_length=1000,
        json_schema_extra={"default": {}},
        description="Policies of labels, by name or id, that have one of their own; what helps "
        "most labels may hurt some (https://arxiv.org/abs/2401.01764). Where they mix images, "
        "they mix those of equal policies.",
    ),
]
DEFAULT = [{"name": "geometric"}, {"name": "colour"}]  # of a training that is not told which
MOST_NAMED = 10  # labels, in the text of a problem
OTHERS = 7  # images with which the one that is looked at may be mixed
LARGEST_TILE = 224  # pixels, unless asked for more


class Policies(NamedTuple):
    """An augmentation policy, and those of the labels that have their own."""

    default: Sequence[Augmentation]
    own: Mapping[UUID, Sequence[Augmentation]]  # by label

    def of(self, label_id: UUID | None) -> Sequence[Augmentation]:
        """The policy of the images of a label; None: of those in the pool."""
        return self.default if label_id is None else self.own.get(label_id, self.default)


def by_label(
    session: Session, project: Project, per_class: Mapping[str, Sequence[Any]]
) -> dict[UUID, Sequence[Any]]:
    """The policies by the ids of their labels, which stay when a label gets another name.

    Raises:
        InvalidRequest: the project has no such labels, or one is named twice.
    """
    labels = session.execute(select(Label.id, Label.name).where(Label.project_id == project.id))
    known = {key: label_id for label_id, name in labels for key in (str(label_id), name)}
    found: dict[UUID, Sequence[Any]] = {}
    unknown = []
    for key, policy in per_class.items():
        label_id = known.get(unicodedata.normalize("NFC", key).strip())
        if label_id is None:
            unknown.append(repr(key[:80]))
        elif label_id in found:
            raise InvalidRequest(
                f"per_class names label {key!r} twice, in two spellings; once is enough"
            )
        else:
            found[label_id] = policy
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise InvalidRequest(
            f"per_class names labels that project {project.name!r} does not have: "
            f"{', '.join(unknown[:MOST_NAMED])}{more}; "
            f"GET /v1/projects/{project.name}/labels lists those that it has"
        )
    return found


def combine(
    augmentation: Sequence[Any], per_class: Mapping[str, Sequence[Any]], labels: Sequence[UUID]
) -> list[Augmentation]:
    """One policy for images of all labels.

    Args:
        per_class: by the ids of labels; those that are not among `labels` concern no image.
        labels: in the order of the columns of the targets.
    """
    own = {
        column: _plugins(per_class[str(label)])
        for column, label in enumerate(labels)
        if str(label) in per_class
    }
    default = _plugins(augmentation)
    return [PerClassPolicies(policies=own, default=default)] if own else default


def preview(
    labeling: Labeling,
    project_key: str,
    image_id: UUID,
    augmentation: Sequence[Any],
    per_class: Mapping[str, Sequence[Any]],
    *,
    count: int,
    side: int | None,
    seed: int,
) -> bytes:
    """A PNG of an image as the encoder sees it, beside `count` views of it as training draws them.

    Raises:
        ImageNotFound: the project has no such image, or its file is gone.
        ImageNotDecodable: its file cannot be read any more.
        InvalidRequest: `per_class` names labels that the project does not have.
    """
    chance = Generator().manual_seed(seed)
    image = labeling.image(project_key, image_id).image
    with labeling.db.reading() as session:
        project = find_project(session, project_key)
        own = by_label(session, project, per_class)
        policies = Policies(_plugins(augmentation), {i: _plugins(p) for i, p in own.items()})
        others = _others(session, image, policies, chance)
    wanted = labeling.embedder.encoder(project.encoder_id).preprocessing
    images = [labeling.decoded(image, wanted), *_readable(labeling, others, wanted)]
    pixels = torch.stack(images).float() / 255
    tiles = draw_views(pixels, policies.of(image.label_id), count=count, generator=chance)
    return contact_sheet(tiles, side=side or min(LARGEST_TILE, wanted.crop))


def _others(session: Session, image: Image, policies: Policies, chance: Generator) -> list[Image]:
    """Random images with which training could mix this one: those of an equal policy."""
    among = select(Image).where(
        Image.project_id == image.project_id, Image.id != image.id, _alike(image, policies)
    )
    count = session.scalar(select(func.count()).select_from(among.subquery())) or 0
    places = torch.randperm(count, generator=chance)[:OTHERS].tolist()
    found = (session.scalar(among.order_by(Image.id).offset(n).limit(1)) for n in places)
    return [other for other in found if other is not None]


def _alike(image: Image, policies: Policies) -> ColumnElement[bool]:
    mine = policies.of(image.label_id)
    alike = [label for label, policy in policies.own.items() if policy == mine]
    if mine != policies.default:
        return Image.label_id.in_(alike)
    return or_(
        Image.label_id.is_(None), Image.label_id.in_(alike), Image.label_id.not_in(policies.own)
    )


def _readable(labeling: Labeling, images: Sequence[Image], wanted: Preprocessing) -> list[Tensor]:
    """Those that can be read, decoded; the picture does not need all of them."""
    decoded = []
    for image in images:
        try:
            decoded.append(labeling.decoded(image, wanted))
        except (ImageNotFound, ImageNotDecodable):
            continue
    return decoded


def _plugins(policy: Sequence[Any]) -> list[Augmentation]:
    """The augmentations that a client chose."""
    return [chosen.options for chosen in policy]
