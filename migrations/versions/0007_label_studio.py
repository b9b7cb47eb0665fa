"""Projects, tasks and annotations of Label Studio.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "label_studio_projects",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("studio_project", sa.BigInteger(), nullable=False),
        sa.Column("choices", sa.String(length=200), nullable=False),
        sa.Column("pushed", sa.String(length=100), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("label_studio_projects_project_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "project_id", "studio_project", name=op.f("label_studio_projects_pkey")
        ),
    )
    op.create_table(
        "label_studio_tasks",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("studio_project", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("label_studio_tasks_project_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["image_id"],
            ["images.id"],
            name=op.f("label_studio_tasks_image_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "project_id", "studio_project", "task", name=op.f("label_studio_tasks_pkey")
        ),
    )
    with op.batch_alter_table("label_studio_tasks", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("label_studio_tasks_image_id_idx"), ["image_id"], unique=False
        )
    op.create_table(
        "label_studio_annotations",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("studio_project", sa.BigInteger(), nullable=False),
        sa.Column("annotation", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=True),
        sa.Column("annotator", sa.String(length=200), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("label_studio_annotations_project_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "project_id", "studio_project", "annotation", name=op.f("label_studio_annotations_pkey")
        ),
    )
    with op.batch_alter_table("label_studio_annotations", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("label_studio_annotations_project_id_studio_project_task_idx"),
            ["project_id", "studio_project", "task"],
            unique=False,
        )


def downgrade() -> None:
    op.drop_table("label_studio_annotations")
    op.drop_table("label_studio_tasks")
    op.drop_table("label_studio_projects")
