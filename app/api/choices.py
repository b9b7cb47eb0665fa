"""Plug-ins that requests of several resources name."""

from typing import Any

from app.plugin_fields import plugin_field
from app.sql.head_choices import LEARNED, Learned
from models.heads.kinds import heads

# In closed form, or one that a job has learned.
HeadChoice: Any = plugin_field({**heads, LEARNED: Learned})
