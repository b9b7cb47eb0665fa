"""What held-out images say of moved centroids, as one verdict."""

from collections.abc import Sequence

from pydantic import BaseModel

from app.jobs.verdicts import comparison_of
from handful.contract.jobs import VerdictRead
from models.generation.choice import Choice
from models.generation.mover import NONE

HOPELESS = 0.1  # probability of being better, below which `blend` is behind what serves


class ChoiceRead(BaseModel):
    """What moves the centroids of labels with so many shots."""

    shots: int
    groups: str
    weight: float
    best: str  # of all that were tried, whether or not it serves
    judged_by: str


class GenerationVerdict(VerdictRead):
    """Where centroids move, and how what moves them did beside all others."""

    choices: list[ChoiceRead]


def judge_choices(choices: Sequence[Choice], images: int) -> GenerationVerdict:
    """Better where a number of shots is served by groups, and none by less than what serves."""
    moving = [choice for choice in choices if choice.weight]
    worse = [
        choice
        for choice in choices
        if not choice.weight
        and "champion" in choice.plain
        and choice.plain["champion"].probability < HOPELESS
    ]
    comparisons = {
        f"{name} at {choice.shots} shot{'s' if choice.shots > 1 else ''}": verdict
        for choice in choices
        for name, verdict in choice.against.items()
    }
    accuracies = [next(iter(c.against.values())).accuracy for c in moving or choices if c.against]
    return GenerationVerdict(
        better=bool(moving) and not worse,
        reason=_reason(choices, moving, worse),
        images=images,
        accuracy=round(sum(accuracies) / len(accuracies), 4) if accuracies else None,
        against={name: comparison_of(verdict) for name, verdict in comparisons.items()},
        choices=[
            ChoiceRead(
                shots=choice.shots,
                groups=choice.groups,
                weight=choice.weight,
                best=choice.best,
                judged_by=choice.judged_by,
            )
            for choice in choices
        ],
    )


def _reason(choices: Sequence[Choice], moving: Sequence[Choice], worse: Sequence[Choice]) -> str:
    if not any(choice.against for choice in choices):
        return "there are too few images to judge by: all weights are 0, and it is `blend`"
    if not moving:
        return (
            "nothing that was learned is ahead of centroids that stay, at any number of shots: all "
            "weights are 0, and it is `blend`"
        )
    if worse:
        shots = ", ".join(str(choice.shots) for choice in worse)
        return f"at {shots} shots no centroid moves, and `blend` is behind what serves"
    moved = [
        f"{choice.groups} with a weight of {choice.weight:g} at {choice.shots}" for choice in moving
    ]
    still = [str(choice.shots) for choice in choices if choice.groups == NONE]
    rest = f"; at {', '.join(still)} they stay" if still else ""
    return f"centroids are moved by {', '.join(moved)} shot(s){rest}"
