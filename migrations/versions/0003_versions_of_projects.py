"""Encoder versions that belong to a project, and what they learned from.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "project_versions",
        sa.Column("encoder_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"],
            ["encoder_versions.id"],
            name=op.f("project_versions_encoder_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("project_versions_project_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("project_versions_job_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("encoder_id", name=op.f("project_versions_pkey")),
        sa.UniqueConstraint("job_id", name=op.f("project_versions_job_id_key")),
    )
    with op.batch_alter_table("project_versions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("project_versions_project_id_encoder_id_idx"),
            ["project_id", "encoder_id"],
            unique=False,
        )

    op.create_table(
        "training_images",
        sa.Column("encoder_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("label_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("predicted", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["encoder_id"],
            ["encoder_versions.id"],
            name=op.f("training_images_encoder_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("encoder_id", "image_id", name=op.f("training_images_pkey")),
    )


def downgrade() -> None:
    op.drop_table("training_images")
    op.drop_table("project_versions")
