"""What versions have learned beside their weights.

Revision: 0016
Follows: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("encoder_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("learner", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("encoder_versions", schema=None) as batch_op:
        batch_op.drop_column("learner")
