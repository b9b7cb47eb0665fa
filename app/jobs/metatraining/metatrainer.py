"""Learning on episodes, by one division of the labels or by several, and how it is told."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from app.jobs.context import JobFailed
from app.jobs.training import LearningStep, RunProgress, speed
from app.jobs.verdicts.new_labels import Answers, one_after_another
from handful.contract.jobs import Figure
from models.metalearning.episodes import LabelSplit
from models.metalearning.inner_loop import InnerLoopDiverged
from models.training.loop import Diverged, Epoch, Training


class MetatrainProgress(RunProgress):
    """An epoch of episodes."""

    method: str
    accuracy: float | None
    rates: dict[str, float]


class Metatrainer:
    """Learns by each division of the labels in turn; what learns by the last is what serves.

    Args:
        method: its name.
        runs: the divisions.
        begin: starts to learn by one of them.
        judge: what came out of a run, by its number from 0, says of the labels that judge it.
        state: of one that was interrupted.
    """

    def __init__(
        self,
        method: str,
        runs: Sequence[LabelSplit],
        begin: Callable[[LabelSplit], Training],
        judge: Callable[[int, Any], Answers],
        state: dict[str, Any] | None,
    ) -> None:
        self._method, self._runs, self._begin, self._judge = method, runs, begin, judge
        self._judged: list[Answers] = list(state["judged"]) if state else []
        self._run = state["run"] if state else 0
        self.training = begin(runs[self._run])
        if state:
            self.training.load(state["training"])

    @property
    def objective(self) -> Any:
        """What learned last, as it was when it did best."""
        self.training.restore_best()
        return self.training.objective.eval()

    @property
    def answers(self) -> Answers:
        """What came out says of all labels that judge."""
        return one_after_another(self._judged)

    def steps(self) -> Iterator[LearningStep]:
        yield from self._epochs()
        while len(self._judged) < sum(bool(split.test) for split in self._runs):
            self._judged.append(self._judge(self._run, self.objective))
            if self._run + 1 < len(self._runs):
                self._run += 1
                self.training = self._begin(self._runs[self._run])
                yield from self._epochs()

    def state(self) -> dict[str, Any]:
        return {"run": self._run, "judged": self._judged, "training": self.training.state()}

    def _epochs(self) -> Iterator[LearningStep]:
        later = len(self._runs) - self._run - 1
        try:
            for epoch in self.training:
                remaining = epoch.of - epoch.number + later * epoch.of
                yield LearningStep(self._progress(epoch), epoch.seconds, remaining)
        except InnerLoopDiverged as error:
            raise JobFailed(str(error)) from error
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error

    def _progress(self, epoch: Epoch) -> MetatrainProgress:
        figures = [Figure(name="loss", value=epoch.loss)]
        if epoch.accuracy is not None:
            name = "accuracy on labels it did not learn"
            figures.append(Figure(name=name, value=epoch.accuracy, unit="share"))
        runs, run = len(self._runs), self._run + 1
        fold = run if run < runs else None
        return MetatrainProgress(
            stage="meta-training",
            share=(self._run + epoch.number / epoch.of) / runs,
            title=f"{self._method}, fold {fold} of {runs - 1}" if fold else self._method,
            figures=figures,
            run=run,
            runs=runs,
            fold=fold,
            method=self._method,
            epoch=epoch.number,
            epochs=epoch.of,
            loss=epoch.loss,
            accuracy=epoch.accuracy,
            rates=epoch.rates,
            images_per_s=speed(epoch.images, epoch.seconds),
        )
