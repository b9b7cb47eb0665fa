"""Runs migrations on the connection that `app.db.migrate` opened."""

from alembic import context
from sqlalchemy import Connection

from app.sql.database import Database
from app.sql.tables import Project


def run(connection: Connection) -> None:
    """One transaction for the whole move: a failed migration leaves nothing behind."""
    sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=Project.metadata,
        render_as_batch=sqlite,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(context.config.attributes["url"])
    with database.engine.connect() as opened:
        run(opened)
    database.close()
