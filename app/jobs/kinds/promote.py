"""Promotion: let an encoder version serve the project, after embedding what it has not seen."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.jobs.context import Checked, JobContext
from app.jobs.kinds import kinds
from app.jobs.promotion import VersionResult, promote_version
from app.sql.lookups import find_version
from app.sql.tables import Project


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Promote:
    """Embed all images with a version while the old one serves, then switch."""

    version: UUID

    def check(self, session: Session, project: Project) -> Checked:
        find_version(session, project, self.version)
        return Checked(self, "")

    def run(self, context: JobContext) -> VersionResult:
        context.mark_running()
        promote_version(context, self.version)
        summary = f"version {self.version} promoted"
        return VersionResult(summary=summary, version=self.version, promoted=True)
