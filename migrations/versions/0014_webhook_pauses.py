"""Webhooks that fail are paused, and have one message under way at a time.

Revision: 0014
Follows: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

MOMENTS = ("failing_since", "paused_until", "tried_at", "busy_until")


def upgrade() -> None:
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
        for name in MOMENTS:
            batch_op.add_column(sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.alter_column("failures", server_default=None)
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("deliveries_webhook_id_due_at_idx"), ["webhook_id", "due_at"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("deliveries_webhook_id_due_at_idx"))
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        for name in (*MOMENTS, "failures"):
            batch_op.drop_column(name)
