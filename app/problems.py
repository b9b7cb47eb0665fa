"""Errors a client can act on, as RFC 9457 problem details."""

import re
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple


class Problem(Exception):
    """Something the client should know. The class docstring is its title."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST

    def __init__(self, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after  # seconds
        self.members = members

    def document(self) -> dict[str, Any]:
        """The problem as JSON-ready data."""
        return {
            "type": f"/problems/{_kebab(type(self).__name__)}",
            "title": (type(self).__doc__ or "").partition("\n")[0].rstrip("."),
            "status": int(self.status),
            "detail": self.detail,
            **self.members,
        }


class InvalidRequest(Problem):
    """The request does not match the API."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class MalformedRequest(Problem):
    """The request is not HTTP, or a header of it is malformed."""


class HeadersTooLarge(Problem):
    """The headers of the request are too many or too long."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class RequestTooSlow(Problem):
    """The request did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class NotFound(Problem):
    """The resource does not exist."""

    status = HTTPStatus.NOT_FOUND


class ProjectNotFound(NotFound):
    """The project does not exist."""


class LabelNotFound(NotFound):
    """The label does not exist."""


class ImageNotFound(NotFound):
    """The image does not exist."""


class WebhookNotFound(NotFound):
    """The webhook does not exist, or not the delivery."""


class JobNotFound(NotFound):
    """The job does not exist."""


class PredictionsNotFound(NotFound):
    """The job has no predictions."""


class SameJobUnfinished(Problem):
    """A job that would do the same has not ended yet."""

    status = HTTPStatus.CONFLICT


class JobEnded(Problem):
    """The job has ended, or has not ended yet, and so cannot do what was asked."""

    status = HTTPStatus.CONFLICT


class AlreadyExists(Problem):
    """The name is taken."""

    status = HTTPStatus.CONFLICT


class Stale(Problem):
    """The resource has changed since it was read."""

    status = HTTPStatus.PRECONDITION_FAILED


class NothingToUndo(Problem):
    """The image has no earlier label state."""

    status = HTTPStatus.CONFLICT


class AlreadyLabeled(Problem):
    """Someone else has labeled the image differently."""

    status = HTTPStatus.CONFLICT


class StrategyRefused(Problem):
    """The strategy cannot rank this pool."""

    status = HTTPStatus.CONFLICT


class ImageNotDecodable(Problem):
    """An uploaded file is not an image that can be decoded."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class FileTooLarge(Problem):
    """An uploaded file is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyTooLarge(Problem):
    """The request body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class LengthRequired(Problem):
    """The request does not say how long its body is."""

    status = HTTPStatus.LENGTH_REQUIRED


class TooManyFiles(Problem):
    """The request has more files than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class ArchiveRefused(Problem):
    """The archive is damaged or passes a limit."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ArchiveMemberRefused(Problem):
    """A member of the archive is not a plain file."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ImportRefused(Problem):
    """The file to import cannot be read as what it should be."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ImageNotInProject(Problem):
    """A file to import labels an image that is neither in it nor in the project."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class FormatUnavailable(Problem):
    """The format needs a package that is not installed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NoFiles(Problem):
    """The request has no files."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NothingStored(Problem):
    """None of the uploaded files could be used."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class UnsupportedMediaType(Problem):
    """The body is of a type that this endpoint does not read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class TooFewLabels(Problem):
    """Classification needs support images in at least two labels."""

    status = HTTPStatus.CONFLICT


class EmptyPool(Problem):
    """The pool has no images that can be scored."""

    status = HTTPStatus.CONFLICT


class TooFewShots(Problem):
    """Unknown images cannot be told from so few labeled ones."""

    status = HTTPStatus.CONFLICT


class NoBridge(Problem):
    """Queries cannot be embedded by that version: too few images were embedded by both."""

    status = HTTPStatus.CONFLICT


class TooFewImages(Problem):
    """Training needs at least two labels with at least two images each."""

    status = HTTPStatus.CONFLICT


class LabelsDoNotSuffice(Problem):
    """Episodes need more labels, or more images of each."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class GroupsDoNotSuffice(Problem):
    """Generation needs two groups of images: labels, or clusters of the pool."""

    status = HTTPStatus.CONFLICT


class NotEnoughMemory(Problem):
    """An episode, or what is generated, takes more memory than there is."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotEmbedded(Problem):
    """The encoder version has embedded no labeled image of the project."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class VersionNotFound(NotFound):
    """The encoder version does not exist."""


class HeadNotFound(NotFound):
    """The learned head does not exist."""


class HeadMismatch(Problem):
    """The learned head does not fit the encoder version."""

    status = HTTPStatus.CONFLICT


class HeadInUse(Problem):
    """The learned head serves the project."""

    status = HTTPStatus.CONFLICT


class HeadUnavailable(Problem):
    """The network of the learned head cannot be had."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class WeightsRefused(Problem):
    """The weights are not those of the architecture."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class InferenceFailed(Problem):
    """The encoder could not embed the image."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class Overloaded(Problem):
    """The service is busy; try again later."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(Problem):
    """The service cannot answer right now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class StorageFull(Unavailable):
    """The disk is full; nothing was stored."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached or is busy."""


class Unauthorized(Problem):
    """The API key is missing or wrong."""

    status = HTTPStatus.UNAUTHORIZED


class AddressRefused(Problem):
    """Nothing is fetched from that address."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class AddressUnreachable(Problem):
    """Nothing came from that address."""

    status = HTTPStatus.BAD_GATEWAY


class ForeignOrigin(Problem):
    """The request comes from another web site."""

    status = HTTPStatus.FORBIDDEN


class KeyInUse(Problem):
    """A request with this Idempotency-Key is still running."""

    status = HTTPStatus.CONFLICT


class AnswerLost(Problem):
    """The request with this Idempotency-Key was carried out, and its answer is lost."""

    status = HTTPStatus.CONFLICT


class KeyReused(Problem):
    """The Idempotency-Key belongs to another request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class InternalError(Problem):
    """The service failed; the log has the cause under the request id."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Failed(NamedTuple):
    """A file that was refused."""

    position: int
    filename: str | None
    problem: Problem
