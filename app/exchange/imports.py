"""Use cases of imports: images and labels from a file that another tool, or an export, wrote."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import or_, select

from app.exchange.formats import formats, recognise
from app.exchange.reader import ImportSource
from app.exchange.records import Entry
from app.labeling.annotations import Annotations, Change
from app.labeling.labels import Labels
from app.labeling.projects import clean_name
from app.labeling.uploads import Upload, Uploads
from app.problems import (
    AlreadyExists,
    Failed,
    ImageNotInProject,
    ImportRefused,
    InvalidRequest,
    Problem,
)
from app.settings import UploadLimits
from app.sql.database import Database
from app.sql.lookups import find_project, label_names, portions
from app.sql.tables import Image, Label
from handful.contract.common import NAME_LENGTH, UNPRINTABLE


class Imported(NamedTuple):
    """What became of a file."""

    format: str
    images: int  # that the file names
    usable: int  # of these, in the project now
    created: int  # new in the project
    labeled: int  # whose label was set or changed
    labels: int  # that are new in the project
    failed: list[Failed]


class _Listed(NamedTuple):
    """An image that the file names."""

    position: int
    entry: Entry


class _Match(NamedTuple):
    """An image of the file that is in the project now, with the label that it has there."""

    listed: _Listed
    image_id: UUID
    label: str | None


class _ProjectImage(NamedTuple):
    """An image of the project."""

    id: UUID
    sha256: str
    filename: str | None
    label: str | None


@dataclass
class _Reading:
    """The images of a file as they are read: contents to send, references to look up."""

    entries: Iterator[Entry]
    most: int
    count: int = 0
    sent: list[_Listed] = field(default_factory=list)  # without their contents
    references: list[_Listed] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def uploads(self) -> Iterator[Upload]:
        """The contents; a file that breaks off ends with the reason as its last failure."""
        try:
            for entry in self.entries:
                if self.count == self.most:
                    raise ImportRefused(f"the file names more than {self.most} images")
                yield from self._sort(entry)
                self.count += 1
        except Problem as problem:
            self.failed.append(Failed(self.count, None, problem))

    def _sort(self, entry: Entry) -> Iterator[Upload]:
        position = self.count
        try:
            entry = _checked(entry)
        except Problem as problem:
            self.failed.append(Failed(position, entry.name, problem))
            return
        content = entry.content
        listed = _Listed(position, entry._replace(content=None))
        if content is None:
            self.references.append(listed)
        else:
            self.sent.append(listed)
            yield Upload(entry.name, content)


@dataclass(frozen=True)
class Imports:
    """Imports into projects."""

    db: Database
    uploads: Uploads
    annotations: Annotations
    labels: Labels

    def import_file(
        self,
        project_key: str,
        file: IO[bytes],
        limits: UploadLimits,
        *,
        name: str | None,
        existing: Literal["relabel", "keep"],
    ) -> Imported:
        """Add the images of a file to a project, make its labels, and set them.

        An image without content in the file is looked up in the project by its SHA-256, its id or
        its file name. Images are added first and labeled then, so repeating an import that was
        interrupted completes it.

        Args:
            name: of the format; None: whatever the file looks like.
            existing: whether an image that has another label already gets that of the file.

        Raises:
            ImportRefused: the file is not of that format, or of none.
        """
        with self.db.reading() as session:
            project_id = find_project(session, project_key).id
        source = ImportSource(file, limits)
        name = name or recognise(source)
        contents = formats[name]().read(source)
        reading = _Reading(contents.entries, limits.archive_files)
        added = self.uploads.add(str(project_id), reading.uploads())
        failed = reading.failed
        failed += [f._replace(position=reading.sent[f.position].position) for f in added.failed]
        matches = [_Match(reading.sent[s.position], s.image_id, s.label) for s in added.stored]
        for references in portions(reading.references):
            matches += self._look_up(project_id, references, failed)
        matches.sort(key=lambda match: match.listed.position)
        names = dict.fromkeys([*contents.labels, *(m.listed.entry.label for m in matches)])
        new_labels = self._make_labels(project_id, names, failed, reading.count)
        labeled = self._label(project_id, matches, existing, failed)
        failed.sort(key=lambda failure: failure.position)
        created = sum(stored.created for stored in added.stored)
        return Imported(name, reading.count, len(matches), created, labeled, new_labels, failed)

    def _look_up(
        self, project_id: UUID, references: Sequence[_Listed], failed: list[Failed]
    ) -> Iterator[_Match]:
        images, shared = self._candidates(project_id, [listed.entry for listed in references])
        for listed in references:
            entry = listed.entry
            keys = (entry.sha256, entry.id, *(("name", n) for n in entry.filenames))
            image = next((images[key] for key in keys if key in images), None)
            if image is None:
                problem = _not_found(entry, next((n for n in entry.filenames if n in shared), None))
                failed.append(Failed(listed.position, entry.name, problem))
            else:
                yield _Match(listed, image.id, image.label)

    def _candidates(
        self, project_id: UUID, entries: Sequence[Entry]
    ) -> tuple[dict[Hashable, _ProjectImage], set[str]]:
        """Images by whatever names them, and the file names that several have."""
        digests = {entry.sha256 for entry in entries if entry.sha256}
        ids = {entry.id for entry in entries if entry.id}
        names = {name for entry in entries for name in entry.filenames}
        query = (
            select(Image.id, Image.sha256, Image.filename, Label.name)
            .outerjoin(Label, Label.id == Image.label_id)
            .where(Image.project_id == project_id)
            .where(or_(Image.sha256.in_(digests), Image.id.in_(ids), Image.filename.in_(names)))
        )
        with self.db.reading() as session:
            rows = [_ProjectImage(*row) for row in session.execute(query)]
        counts = Counter(row.filename for row in rows)
        images: dict[Hashable, _ProjectImage] = {("name", row.filename): row for row in rows}
        shared = {name for name in names if counts[name] > 1}
        for name in shared:
            del images["name", name]
        images |= {row.id: row for row in rows} | {row.sha256: row for row in rows}
        return images, shared

    def _make_labels(
        self,
        project_id: UUID,
        names: Iterable[str | None],
        failed: list[Failed],
        end: int,
    ) -> int:
        """Make the labels that are new, in the order of the file; how many."""
        with self.db.reading() as session:
            old = set(label_names(session, project_id).values())
        created = 0
        for name in names:
            if name is None or name in old:
                continue
            try:
                self.labels.create(str(project_id), name)
                created += 1
            except AlreadyExists:
                continue
            except InvalidRequest as problem:  # of a label that no image has
                failed.append(Failed(end, None, problem))
        return created

    def _label(
        self,
        project_id: UUID,
        matches: Sequence[_Match],
        existing: Literal["relabel", "keep"],
        failed: list[Failed],
    ) -> int:
        """Set the labels; how many were set or changed."""
        changing = [
            match
            for match in matches
            if match.listed.entry.label not in (None, match.label)
            and (match.label is None or existing == "relabel")
        ]
        labeled = len(changing)
        for portion in portions(changing):
            changes = [
                Change(m.image_id, m.listed.entry.label, m.listed.entry.annotator, "import")
                for m in portion
            ]
            for failure in self.annotations.annotate(str(project_id), changes):
                listed = portion[failure.position].listed
                failed.append(Failed(listed.position, listed.entry.name, failure.problem))
                labeled -= 1
        return labeled


def _checked(entry: Entry) -> Entry:
    """An entry that can be stored.

    Raises:
        Problem: why it cannot.
    """
    if isinstance(entry.content, Problem):
        raise entry.content
    label = None if entry.label is None else clean_name(entry.label)
    annotator = entry.annotator or ""
    if len(annotator) > NAME_LENGTH or UNPRINTABLE.search(annotator):
        raise InvalidRequest(
            f"the annotator {annotator[:40]!r} is no text of at most {NAME_LENGTH} characters"
        )
    return entry._replace(label=label)


def _not_found(entry: Entry, shared: str | None) -> Problem:
    if shared is not None:
        return ImageNotInProject(
            f"several images of the project are named {shared!r}: name them by id or sha256"
        )
    if entry.missing:
        return ImageNotInProject(f"the export has no file of this image: {entry.missing}")
    named = ", ".join(
        f"{what} {value}"
        for what, value in (
            ("sha256", entry.sha256),
            ("id", entry.id),
            ("name", " or ".join(map(repr, entry.filenames))),
        )
        if value
    )
    return ImageNotInProject(
        f"the project has no image of {named or 'no name at all'}; URLs are not fetched: send the "
        "image files in the same zip, or upload them before"
    )
