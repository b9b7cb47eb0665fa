"""Fine-tuning: adapt the encoder to the labels, and promote the result only if it is better."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import torch
from pydantic import Field
from sqlalchemy.orm import Session

from app.encoders.versions import derive_version
from app.jobs.context import Checked, JobContext, JobFailed, TrainedVersion
from app.jobs.kinds import kinds
from app.jobs.policies import DEFAULT, AugmentationChoice, PerLabel, Policy, by_label, combine
from app.jobs.training_data import DecodedImages, Labeled, check_enough, labeled_images, snapshot
from app.jobs.verdicts import correctness, out_of_fold_correctness, verdict_document
from app.plugin_fields import forbid_extra, plugin_field, plugins_from
from app.sql.tables import EncoderVersion, Project, ProjectVersion, TrainingImage
from models.encoders import Encoder
from models.evaluation.comparison import compare
from models.finetuning import FinetuningMethod, embed_all, resolve_recipe, start
from models.finetuning.methods import methods
from models.finetuning.model_selection import Selected, Selection, SelectionProgress
from models.heads import Head
from models.heads.kinds import heads
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
            description="Ways to train; cross-validation chooses among several.",
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
            description="What is done to each image, one after the other, whenever it is seen.",
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
        Literal["auto", "never", "always"],
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def check(self, session: Session, project: Project) -> Checked:
        check_enough(session, project)
        # Ids from here on: a label may be renamed before the job starts.
        policies = by_label(session, project, self.per_class)
        settled = replace(self, per_class={str(i): policy for i, policy in policies.items()})
        return Checked(settled, snapshot(session, project))

    def run(self, work: JobContext) -> dict[str, Any]:
        return work.conclude(work.made() or self._train(work), self.promote)

    def _train(self, work: JobContext) -> TrainedVersion:
        checkpoint = work.checkpoint()
        data = work.patiently(lambda: _gather(work, checkpoint))
        encoder = work.patiently(lambda: work.versions.load(data.base))
        readable, images = work.decode(data.labeled, encoder)
        if readable != data.labeled:
            data, checkpoint = data._replace(labeled=readable), None
        kept = checkpoint["batch_size"] if checkpoint else self.recipe.batch_size

        def attempt(batch_size: int, first: bool) -> TrainedVersion:
            recipe = replace(self.recipe, batch_size=batch_size)
            begun = checkpoint if batch_size == kept else None
            return self._train_with(work, data, encoder, images, begun, recipe, first=first)

        return work.fitting(self.recipe.batch_size, attempt, start=kept)

    def _train_with(
        self,
        work: JobContext,
        data: "_Data",
        encoder: Encoder,
        images: DecodedImages,
        checkpoint: dict[str, Any] | None,
        recipe: Recipe,
        *,
        first: bool,
    ) -> TrainedVersion:
        chosen = [one.options for one in self.methods]
        policy = combine(self.augmentation, self.per_class, data.labeled.labels)
        usual = FOLDS_OF_FEW if len(data.labeled.targets) <= FEW else FOLDS_OF_MANY
        folds = min(self.folds or usual, int(torch.bincount(data.labeled.targets).min()))
        recipe = resolve_recipe(recipe, encoder, len(data.labeled.targets))
        try:
            if self.find_rate:
                rate = (
                    checkpoint["rate"]
                    if checkpoint
                    else _range_test(chosen[0], encoder, images, data, recipe)
                )
                recipe = replace(recipe, rate=rate)
                work.say(f"the learning rate is {rate:.2g}", rate=rate)
            selection = Selection(
                encoder,
                images,
                data.labeled.targets,
                chosen,
                recipe,
                data.head,
                policy=policy,
                folds=folds,
                repeats=self.repeats,
            )
        except ValueError as error:
            raise JobFailed(str(error)) from error
        told = None
        if checkpoint is not None:
            selection.load(checkpoint["selection"])
        if checkpoint is not None or (work.claim.checkpoint is None and first):
            told = work.patiently(lambda: work.queue.last_metrics(work.claim))
        work.running()
        seconds: dict[str, list[float]] = {}  # of the epochs of each method
        try:
            for progress in selection:
                taken = seconds.setdefault(progress.method, [])
                taken.append(progress.epoch.seconds)
                position = [progress.run, progress.epoch.number]
                if told is None or position > [told.get("run", 0), told.get("epoch", 0)]:
                    work.tell(_metrics(progress, recipe, taken))
                work.keep(
                    lambda: {
                        "selection": selection.state(),
                        "batch_size": recipe.batch_size,
                        "rate": recipe.rate,
                        "data": data.pack(),
                    }
                )
        except Diverged as error:
            raise JobFailed(
                f"{error}; try a lower rate than {recipe.rate:g}, or find_rate"
            ) from error
        selected = selection.result()
        verdict = _judge(work, data, images, selection, selected)
        return _save(work, data, selected, verdict)


class _Data(NamedTuple):
    """What a job learns from, fixed when it first started."""

    labeled: Labeled
    champion: UUID  # the version that served the project
    base: UUID  # the version from which training starts; it has not seen the labels
    head: Head
    head_choice: dict[str, Any]

    def pack(self) -> dict[str, Any]:
        return {
            "examples": self.labeled.pack(),
            "champion": str(self.champion),
            "base": str(self.base),
            "head": self.head_choice,
        }

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "_Data":
        return cls(
            Labeled.unpack(packed["examples"]),
            UUID(packed["champion"]),
            UUID(packed["base"]),
            heads[packed["head"]["name"]](**packed["head"]["options"]),
            packed["head"],
        )


def _gather(work: JobContext, checkpoint: dict[str, Any] | None) -> _Data:
    if checkpoint is not None:
        return _Data.unpack(checkpoint["data"])
    with work.db.reading() as session:
        project = session.get_one(Project, work.project_id)
        head = heads[project.head["name"]](**project.head["options"])
        found = labeled_images(session, project.id)
        champion, named = project.encoder_id, project.head
    return _Data(found, champion, work.versions.base(champion), head, named)


def _range_test(
    method: FinetuningMethod, encoder: Encoder, images: DecodedImages, data: _Data, recipe: Recipe
) -> float:
    chance = torch.Generator().manual_seed(recipe.seed)
    some = torch.randperm(len(images), generator=chance)[:RATE_IMAGES].tolist()
    few, targets = images.only(some), data.labeled.targets[some]
    return find_rate(
        lambda rising: start(method, encoder, few, targets, rising).training, len(few), recipe
    )


def _metrics(
    progress: SelectionProgress, recipe: Recipe, seconds: Sequence[float]
) -> dict[str, Any]:
    """What an epoch tells.

    Args:
        seconds: of the epochs of its method so far; one method may take a hundred times another's.
    """
    epoch = progress.epoch
    left = (progress.runs - progress.run + 1) * recipe.epochs - epoch.number
    return {
        "stage": "training",
        "method": progress.method,
        "run": progress.run,
        "runs": progress.runs,
        "fold": progress.fold,
        "epoch": epoch.number,
        "epochs": epoch.of,
        "loss": epoch.loss,
        "accuracy": epoch.accuracy,
        "rates": epoch.rates,
        "images_per_s": round(epoch.images / max(epoch.seconds, 1e-9), 1),
        "seconds_left": round(left * sum(seconds) / len(seconds), 1),
    }


def _judge(
    work: JobContext, data: _Data, images: DecodedImages, selection: Selection, selected: Selected
) -> dict[str, Any]:
    """Compare with the plain prototypes, and with the version that serves the project now."""
    targets = data.labeled.targets
    candidate = correctness(selected.predicted, targets)
    rivals = {"prototypes": correctness(selection.predict(selection.embeddings), targets)}
    if data.champion != data.base:
        rivals["champion"] = _champion(work, data, images, selection)
    verdicts = {name: compare(candidate, right, targets) for name, right in rivals.items()}
    worst = min(verdicts.values(), key=lambda verdict: (verdict.better, verdict.probability))
    nothing = "nothing that was learned helped with images that were held out"
    return {
        "better": all(verdict.better for verdict in verdicts.values()),
        "reason": worst.reason if selected.share else nothing,
        "images": len(targets),
        "against": {name: verdict_document(verdict) for name, verdict in verdicts.items()},
        "method": _named(selected.method),
        "share": selected.share,
        "candidates": [
            {"method": _named(c.method), "share": c.share, "accuracy": round(c.accuracy, 4)}
            for c in selected.candidates
        ],
    }


def _champion(
    work: JobContext, data: _Data, images: DecodedImages, selection: Selection
) -> torch.Tensor:
    """How often the serving version is right on images that it, or models like it, never saw.

    What it learned from is judged by the predictions of its own cross-validation, kept when it was
    made; what was labeled since, by the version itself.
    """
    champion = work.patiently(lambda: work.versions.load(data.champion))
    predicted = selection.predict(embed_all(champion, images))
    right = correctness(predicted, data.labeled.targets)
    return work.patiently(
        lambda: out_of_fold_correctness(work.db, data.champion, data.labeled, right)
    )


def _save(
    work: JobContext, data: _Data, selected: Selected, verdict: dict[str, Any]
) -> TrainedVersion:
    """Store the version, once however often the job is interrupted."""
    weights = work.versions.store(selected.encoder)
    labels = data.labeled.labels

    def write() -> UUID:
        with work.queue.holding(work.claim) as session:
            base = session.get_one(EncoderVersion, data.base)
            version = derive_version(base, weights, projected=selected.method.frozen)
            session.add(version)
            session.flush()
            session.add(
                ProjectVersion(
                    encoder_id=version.id,
                    project_id=work.project_id,
                    job_id=work.claim.job_id,
                    metrics={"champion": str(data.champion), **verdict},
                )
            )
            session.add_all(
                TrainingImage(
                    encoder_id=version.id,
                    image_id=example.image_id,
                    label_id=example.label_id,
                    label=example.label,
                    predicted=[str(labels[p]) for p in selected.predicted[:, n].tolist()],
                )
                for n, example in enumerate(data.labeled.examples)
            )
            return version.id

    return TrainedVersion(work.patiently(write), data.champion, verdict)


def _named(method: FinetuningMethod) -> dict[str, Any]:
    name = type(method).__module__.rpartition(".")[2]
    return {"name": name, "options": asdict(method)}  # type: ignore[call-overload]
