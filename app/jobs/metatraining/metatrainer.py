"""How a training on episodes is told, epoch by epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.jobs.context import JobFailed
from app.jobs.training import LearningStep, speed
from handful.contract.jobs import Figure, Progress
from models.metalearning.inner_loop import InnerLoopDiverged
from models.training.loop import Diverged, Epoch, Training


class MetatrainProgress(Progress):
    """An epoch of episodes."""

    method: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    rates: dict[str, float]
    images_per_s: float


@dataclass(frozen=True)
class Metatrainer:
    """Tells the epochs of a training."""

    method: str
    training: Training

    @property
    def objective(self) -> Any:
        """What learned, as it was when it did best."""
        self.training.restore_best()
        return self.training.objective.eval()

    def steps(self) -> Iterator[LearningStep]:
        try:
            for epoch in self.training:
                progress = _progress(self.method, epoch)
                yield LearningStep(progress, epoch.seconds, epoch.of - epoch.number)
        except InnerLoopDiverged as error:
            raise JobFailed(str(error)) from error
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error

    def state(self) -> dict[str, Any]:
        return self.training.state()


def _progress(method: str, epoch: Epoch) -> MetatrainProgress:
    figures = [Figure(name="loss", value=epoch.loss)]
    if epoch.accuracy is not None:
        name = "accuracy on labels it did not learn"
        figures.append(Figure(name=name, value=epoch.accuracy, unit="share"))
    return MetatrainProgress(
        stage="meta-training",
        share=epoch.number / epoch.of,
        title=method,
        figures=figures,
        method=method,
        epoch=epoch.number,
        epochs=epoch.of,
        loss=epoch.loss,
        accuracy=epoch.accuracy,
        rates=epoch.rates,
        images_per_s=speed(epoch.images, epoch.seconds),
    )
