"""Augmentation policies: which images get which."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from app.plugin_fields import plugin_field
from app.problems import InvalidRequest
from app.sql.lookups import label_names
from app.sql.tables import Project
from models.augmentation import Augmentation
from models.augmentation.kinds import augmentations
from models.augmentation.per_class import PerClassPolicies

AugmentationChoice: Any = plugin_field(augmentations)
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


class Policies(NamedTuple):
    """An augmentation policy, and those of the labels that have their own."""

    default: Sequence[Augmentation]
    exceptions: Mapping[UUID, Sequence[Augmentation]]  # by label

    def of(self, label_id: UUID | None) -> Sequence[Augmentation]:
        """The policy of the images of a label; None: of those in the pool."""
        return self.default if label_id is None else self.exceptions.get(label_id, self.default)


def by_label(
    session: Session, project: Project, per_class: Mapping[str, Sequence[Any]]
) -> dict[UUID, Sequence[Any]]:
    """The policies by the ids of their labels, which stay when a label gets another name.

    Raises:
        InvalidRequest: the project has no such labels, or one is named twice.
    """
    names = label_names(session, project.id)
    by_key = {key: label_id for label_id, name in names.items() for key in (str(label_id), name)}
    policies: dict[UUID, Sequence[Any]] = {}
    unknown = []
    for key, policy in per_class.items():
        label_id = by_key.get(unicodedata.normalize("NFC", key).strip())
        if label_id is None:
            unknown.append(repr(key[:80]))
        elif label_id in policies:
            raise InvalidRequest(
                f"per_class names label {key!r} twice, in two spellings; once is enough"
            )
        else:
            policies[label_id] = policy
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise InvalidRequest(
            f"per_class names labels that project {project.name!r} does not have: "
            f"{', '.join(unknown[:MOST_NAMED])}{more}; "
            f"GET /v1/projects/{project.name}/labels lists those that it has"
        )
    return policies


def combine(
    augmentation: Sequence[Any], per_class: Mapping[str, Sequence[Any]], labels: Sequence[UUID]
) -> list[Augmentation]:
    """One policy for images of all labels.

    Args:
        per_class: by the ids of labels; those that are not among `labels` concern no image.
        labels: in the order of the columns of the targets.
    """
    exceptions = {
        column: augmentations_of(per_class[str(label)])
        for column, label in enumerate(labels)
        if str(label) in per_class
    }
    default = augmentations_of(augmentation)
    return [PerClassPolicies(policies=exceptions, default=default)] if exceptions else default


def augmentations_of(policy: Sequence[Any]) -> list[Augmentation]:
    """The augmentations that a client chose."""
    return [choice.options for choice in policy]
