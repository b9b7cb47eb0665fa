"""Projects by name or id, read again only when the database has changed."""

from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Project

MOST_KEYS = 1024


class ProjectCache:
    """Projects as they are now; to look one up takes a fifth of what a photo costs.

    Where the database does not say whether it has changed, it is asked for the project every time.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[str, tuple[int, Project]] = {}  # by key, with the version it was read at

    def find(self, key: str) -> Project:
        """A project by id or name; it belongs to no session and is to be read only.

        Raises:
            ProjectNotFound: there is none.
        """
        version = self._db.data_version()  # before the project, which may be newer
        known = self._known.get(key)
        if known is not None and known[0] == version:
            return known[1]
        with self._db.reading() as session:
            project = find_project(session, key)
        if version is not None:
            if len(self._known) >= MOST_KEYS:
                self._known.clear()
            self._known[key] = version, project
        return project
