"""What Label Studio says: labeling interfaces, tasks, annotations, events."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple
from xml.etree import ElementTree

from pydantic import AwareDatetime, BaseModel, Field, field_validator

from app.labeling.projects import clean_name
from app.problems import InvalidRequest

Number = Annotated[int, Field(ge=0, lt=1 << 63)]


class Control(NamedTuple):
    """The `Choices` of a labeling interface by which an image gets its label."""

    from_name: str
    to_name: str
    field: str  # of a task's data: where its image is
    choices: dict[str, str]  # as Label Studio writes them, by our names

    def result(self, choice: str | None) -> list[dict[str, Any]]:
        """A choice in Label Studio's words."""
        if choice is None:
            return []
        value = {"choices": [choice]}
        names = {"from_name": self.from_name, "to_name": self.to_name}
        return [names | {"type": "choices", "value": value}]


class StudioProject(BaseModel):
    """A project of Label Studio."""

    id: Number
    label_config: str = ""


class StudioTask(BaseModel):
    """A task: something to label."""

    id: Number
    data: dict[str, Any] = {}


class StudioAnnotation(BaseModel):
    """What somebody said of a task."""

    id: Number
    task: Number | None = None
    result: list[Any] = []
    was_cancelled: bool = Field(default=False, description="The task was skipped.")
    completed_by: Any = None
    updated_at: AwareDatetime | None = None

    @property
    def annotator(self) -> str | None:
        """Who said so."""
        who = self.completed_by
        if isinstance(who, Mapping):
            who = who.get("email") or who.get("id")
        return None if who is None else f"Label Studio {who}"[:200]

    def label(self, control: Control) -> str | None:
        """The one label that was chosen; None when there is none, or several."""
        if self.was_cancelled:
            return None
        choices = [
            choice
            for part in self.result
            if isinstance(part, Mapping) and part.get("from_name") == control.from_name
            for choice in _choices(part.get("value"))
        ]
        return clean_name(choices[0]) if len(choices) == 1 else None


class Deleted(BaseModel):
    """What is no more."""

    id: Number


class StudioEvent(BaseModel):
    """What happened in Label Studio. It calls one of a thing and a list of them by one name."""

    action: str
    project: StudioProject | None = None
    annotation: list[StudioAnnotation] = []
    task: list[StudioTask] = []
    annotations: list[Deleted] = []
    tasks: list[StudioTask] = []

    def by_task(self) -> list[tuple[StudioAnnotation, int]]:
        """The annotations, each with the number of its task."""
        tasks = [task.id for task in self.task] + [None] * len(self.annotation)
        pairs = (
            (annotation, task if annotation.task is None else annotation.task)
            for annotation, task in zip(self.annotation, tasks, strict=False)
        )
        return [(annotation, task) for annotation, task in pairs if task is not None]

    @field_validator("annotation", "task", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value


def read_config(config: str, name: str | None = None) -> Control:
    """The `Choices` over an image of a labeling interface, the first if none is named.

    Raises:
        InvalidRequest: there is none, or the interface cannot be read.
    """
    if "<!" in re.sub(r"<!--.*?-->", "", config, flags=re.DOTALL):
        raise InvalidRequest("the labeling interface declares a document type, which it must not")
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise InvalidRequest(f"the labeling interface is not XML: {error}") from error
    images = {
        image.get("name", ""): image.get("value", "").removeprefix("$")
        for image in root.iter("Image")
    }
    over_images = [tag for tag in root.iter("Choices") if tag.get("toName") in images]
    control = next((tag for tag in over_images if name in (None, tag.get("name"))), None)
    if control is None:
        names = ", ".join(tag.get("name", "") for tag in over_images) or "none"
        named = f"named {name!r} " if name else ""
        raise InvalidRequest(
            f"the labeling interface has no Choices {named}over an Image; it has: {names}"
        )
    to_name = control.get("toName", "")
    spellings = [tag.get("alias") or tag.get("value") or "" for tag in control.iter("Choice")]
    return Control(
        control.get("name", ""),
        to_name,
        images[to_name],
        {clean_name(spelling): spelling for spelling in spellings},
    )


def _choices(value: Any) -> Iterable[str]:
    choices = value.get("choices") if isinstance(value, Mapping) else None
    return [c for c in choices if isinstance(c, str)] if isinstance(choices, list) else []
