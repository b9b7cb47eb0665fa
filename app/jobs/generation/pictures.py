"""Pictures of what was generated: the images of the pool that are nearest to it."""

from collections.abc import Sequence
from uuid import UUID

import torch
from jaxtyping import Float
from sqlalchemy import select
from torch import Tensor

from app.jobs.context import JobContext
from app.jobs.decoded_images import decode_readable
from app.jobs.training import Sheet
from app.sql.tables import Image
from models.augmentation.contact_sheet import contact_sheet
from models.generation import Groups, Target, direction
from models.generation.generators.cvae import GeneratedMean
from models.training.loop import as_values

CLASSES, TILES, SIDE, SHOTS = 4, 4, 64, 2  # on a sheet; pixels of a tile; of each class


def nearest_sheet(
    context: JobContext,
    version: UUID,
    groups: Groups,
    target: Target,
    pool: Float[Tensor, "N D"],
    ids: Sequence[UUID],
) -> Sheet | None:
    """For some groups, a row each: images of the pool nearest to what two of them generate.

    None where there is no pool, or none of these images can be read.
    """
    if not len(pool):
        return None
    rows = [row for number in range(groups.total)[:CLASSES] for row in nearest_rows(
        groups.points[groups.groups == number][:SHOTS], target, pool
    )]  # fmt: skip
    digests = context.through_outages(lambda: _digests(context, [ids[row] for row in rows]))
    encoder = context.through_outages(lambda: context.versions.load(version))
    positions, images = decode_readable(context, digests, encoder)
    if not positions:
        return None
    png = contact_sheet(as_values(images[torch.arange(len(images))]), side=SIDE)
    return Sheet("images of the pool nearest to what is generated of two, a class a row", png, 1)


@torch.no_grad()
def nearest_rows(
    shots: Float[Tensor, "K D"], target: Target, pool: Float[Tensor, "N D"]
) -> list[int]:
    """Rows of the pool, each nearest to one embedding that is generated; else to their mean."""
    mean = shots.mean(dim=0)
    if isinstance(target, GeneratedMean):
        generated = direction(target.generate(mean)[:TILES])
        rows: list[int] = (generated @ pool.T).argmax(dim=1).tolist()
        return rows
    generated = direction(target(mean[None], torch.tensor([len(shots)])))
    nearest: list[int] = (generated @ pool.T)[0].topk(min(TILES, len(pool))).indices.tolist()
    return nearest


def _digests(context: JobContext, ids: Sequence[UUID]) -> list[str]:
    """In the order of the ids; images that are gone are left out."""
    with context.db.reading() as session:
        found = session.execute(select(Image.id, Image.sha256).where(Image.id.in_(set(ids))))
        known: dict[UUID, str] = {row[0]: row[1] for row in found}
    return [known[image] for image in ids if image in known]
