"""Heads that jobs have learned on the embeddings of a version.

Revision: 0015
Follows: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "learned_heads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("encoder_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("method", sa.String(length=100), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("weights", sa.String(length=64), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("learned_heads_project_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["encoder_id"],
            ["encoder_versions.id"],
            name=op.f("learned_heads_encoder_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("learned_heads_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("learned_heads_pkey")),
        sa.UniqueConstraint("job_id", name=op.f("learned_heads_job_id_key")),
    )
    with op.batch_alter_table("learned_heads", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("learned_heads_project_id_id_idx"), ["project_id", "id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("learned_heads_encoder_id_idx"), ["encoder_id"], unique=False
        )


def downgrade() -> None:
    op.drop_table("learned_heads")
