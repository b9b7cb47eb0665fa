"""Files that are marked before they are removed.

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "doomed_blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("doomed_blobs_pkey")),
    )
    with op.batch_alter_table("doomed_blobs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("doomed_blobs_state_since_idx"), ["state", "since"], unique=False
        )


def downgrade() -> None:
    op.drop_table("doomed_blobs")
