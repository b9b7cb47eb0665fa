"""Fine-tuning: adapt the encoder to the labels, and promote the result only if it is better."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.decoded_images import Material, decode_labeled
from app.jobs.kinds import kinds
from app.jobs.planning.adaptation import adapter_of, why_not_adapt
from app.jobs.planning.policies import (
    DEFAULT,
    AugmentationChoice,
    PerLabel,
    Policy,
    by_label,
    combine,
)
from app.jobs.promotion import Promote, VersionResult
from app.jobs.training import LearningStep, RunProgress, Trained, step_of_run, train_version
from app.jobs.training_data import check_enough, gather, labels_fingerprint
from app.jobs.verdicts import correctness, judge_beside
from app.plugin_fields import forbid_extra, plugin_field, plugins_from
from app.problems import InvalidRequest
from app.sql.tables import Project
from handful.contract.jobs import Figure, VerdictRead
from models.finetuning import (
    FinetuningMethod,
    GradientMethod,
    embed_all,
    resolve_recipe,
    start,
)
from models.finetuning.methods import methods
from models.finetuning.model_selection import Selected, Selection, SelectionProgress
from models.metalearning.inner_loop import InnerLoopDiverged
from models.registry import plugin_name
from models.training.learning_rate_range import find_rate
from models.training.loop import Diverged
from models.training.recipe import Recipe

MethodChoice: Any = plugin_field(methods)
RATE_IMAGES = 2000  # at most, that a learning-rate range test looks at
# Models that learned from half of some 50 images do not show what one that learns from all would.
FEW, FOLDS_OF_FEW, FOLDS_OF_MANY = 200, 5, 3
METHODS = [{"name": "discriminative"}]


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train the encoder on the project's labels, judge the result on folds, promote what is better.

    With several methods, cross-validation chooses among them.
    """

    methods: Annotated[
        list[MethodChoice],
        Field(
            min_length=1,
            max_length=10,
            description="Ways to train; cross-validation chooses among several. `adapt` is for an "
            "encoder that has learned steps, as `adapts` of its version says.",
            json_schema_extra={"default": METHODS},
        ),
    ] = field(default_factory=lambda: plugins_from(MethodChoice, METHODS))
    recipe: Annotated[
        forbid_extra(Recipe),  # type: ignore[valid-type]
        Field(description="How to train, whatever the method."),
    ] = field(default_factory=Recipe)
    find_rate: Annotated[
        bool, Field(description="By a learning-rate range test, instead of the recipe's rate.")
    ] = False
    augmentation: Annotated[
        Policy,
        Field(
            description="What is progress to each image, one after the other, whenever it is seen.",
            json_schema_extra={"default": DEFAULT},
        ),
    ] = field(default_factory=lambda: plugins_from(AugmentationChoice, DEFAULT))
    per_class: PerLabel = field(default_factory=dict)
    folds: Annotated[
        int | None,
        Field(
            ge=2,
            le=20,
            description="Parts of the labeled images, each judged by a training on the others; "
            f"fewer where a label has fewer images. By default {FOLDS_OF_FEW} up to {FEW} images, "
            f"and {FOLDS_OF_MANY} of more.",
        ),
    ] = None
    repeats: Annotated[
        int, Field(ge=1, le=20, description="Of the cross-validation, with other folds.")
    ] = 1
    promote: Annotated[
        Promote,
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def check(self, session: Session, project: Project) -> Checked:
        check_enough(session, project)
        if self.adapts and (reason := why_not_adapt(session, project)):
            raise InvalidRequest(reason)
        # Ids from here on: a label may be renamed before the job starts.
        policies = by_label(session, project, self.per_class)
        settled = replace(self, per_class={str(i): policy for i, policy in policies.items()})
        return Checked(settled, labels_fingerprint(session, project))

    @property
    def adapts(self) -> bool:
        """Whether steps are to be taken that the encoder has learned."""
        return not all(isinstance(method.options, GradientMethod) for method in self.methods)

    def run(self, context: JobContext) -> VersionResult:
        return train_version(context, self, self.recipe.batch_size)

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> Material:
        return decode_labeled(context, gather(context, packed))

    def begin(
        self,
        context: JobContext,
        material: Material,
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "Finetuner":
        targets, encoder = material.data.labeled.targets, material.encoder
        usual = FOLDS_OF_FEW if len(targets) <= FEW else FOLDS_OF_MANY
        recipe = replace(self.recipe, batch_size=batch_size)
        recipe = resolve_recipe(recipe, encoder, len(targets))
        options = [method.options for method in self.methods]
        trains = [method for method in options if isinstance(method, GradientMethod)]
        try:
            if self.find_rate and trains:
                rate = state["recipe"]["rate"] if state else _find_rate(trains[0], material, recipe)
                recipe = replace(recipe, rate=rate)
                context.message(f"the learning rate is {rate:.2g}", rate=rate)
            selection = Selection(
                encoder,
                material.images,
                targets,
                options,
                recipe,
                material.data.head,
                policy=combine(self.augmentation, self.per_class, material.data.labeled.labels),
                folds=min(self.folds or usual, int(torch.bincount(targets).min())),
                repeats=self.repeats,
                adapter=adapter_of(context, material.data.base, encoder) if self.adapts else None,
            )
        except ValueError as error:
            raise JobFailed(str(error)) from error
        if state is not None:
            selection.load(state)
        return Finetuner(selection, recipe)

    def judge(self, context: JobContext, material: Material, learner: "Finetuner") -> Trained:
        """Beside the plain prototypes, and the version that serves the project now."""
        selection, labeled = learner.selection, material.data.labeled
        selected, targets, labels = selection.result(), labeled.targets, labeled.labels
        verdict = judge_beside(
            context,
            material.data,
            correctness(selected.predicted, targets),
            {"prototypes": correctness(selection.predict(selection.embeddings), targets)},
            lambda champion, head: correctness(
                selection.predict(embed_all(champion, material.images), head), targets
            ),
        )
        return Trained(
            selected.encoder,
            _with_selection(verdict, selected),
            projected=selected.method.frozen,
            predicted=[[labels[p] for p in image] for image in selected.predicted.T.tolist()],
        )


class FinetuneProgress(RunProgress):
    """An epoch of a fold, or of all images."""

    method: str
    accuracy: float | None
    rates: dict[str, float]


class MethodRead(BaseModel):
    """A way to fine-tune."""

    name: str
    options: dict[str, Any]


class MethodRating(BaseModel):
    """A way to fine-tune, and how much of what it learned is kept."""

    method: MethodRead
    share: float
    accuracy: float


class FinetuneVerdict(VerdictRead):
    """How the best way did, and the others."""

    method: MethodRead
    share: float
    candidates: list[MethodRating]


@dataclass(frozen=True)
class Finetuner:
    """Tells the epochs of a selection."""

    selection: Selection
    recipe: Recipe

    def steps(self) -> Iterator[LearningStep]:
        try:
            yield from map(_step, self.selection)
        except InnerLoopDiverged as error:
            raise JobFailed(
                f"{error}, which the encoder has learned: meta-train it again with a lower one, or "
                "name another method than `adapt`"
            ) from error
        except Diverged as error:
            rate = self.recipe.rate
            raise JobFailed(f"{error}; try a lower rate than {rate:g}, or find_rate") from error

    def state(self) -> dict[str, Any]:
        return self.selection.state()


def _find_rate(method: GradientMethod, material: Material, recipe: Recipe) -> float:
    """By a learning-rate range test on some of the images."""
    generator = torch.Generator().manual_seed(recipe.seed)
    sample = torch.randperm(len(material.images), generator=generator)[:RATE_IMAGES].tolist()
    images, targets = material.images.only(sample), material.data.labeled.targets[sample]
    return find_rate(
        lambda rising: start(method, material.encoder, images, targets, rising).training,
        len(images),
        recipe,
    )


def _step(progress: SelectionProgress) -> LearningStep:
    epoch, figures = progress.epoch, []
    if epoch.accuracy is not None:
        figures.append(Figure(name="held-out accuracy", value=epoch.accuracy, unit="share"))
    where = f"fold {progress.fold}" if progress.fold else "all images"
    return step_of_run(
        FinetuneProgress,
        progress,
        stage="training",
        title=f"{progress.method}, {where}",
        figures=figures,
        pace=progress.method,  # one may take a hundred times as long as another
        method=progress.method,
        accuracy=epoch.accuracy,
        rates=epoch.rates,
    )


def _with_selection(verdict: VerdictRead, selected: Selected) -> FinetuneVerdict:
    reason = "nothing that was learned helped with images that were held out"
    ratings = [
        MethodRating(method=_method(c.method), share=c.share, accuracy=round(c.accuracy, 4))
        for c in selected.candidates
    ]
    return FinetuneVerdict(
        **dict(verdict) | ({} if selected.share else {"reason": reason}),
        method=_method(selected.method),
        share=selected.share,
        candidates=ratings,
    )


def _method(method: FinetuningMethod) -> MethodRead:
    return MethodRead(name=plugin_name(method), options=asdict(method))  # type: ignore[call-overload]
