"""The job that fine-tunes, done in this process."""

from uuid import UUID

import pytest
import torch
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from app.housekeeping.blob_sweep import sweep
from app.jobs import context, promotion
from app.jobs.checkpoints import Checkpoints
from app.jobs.job_queue import LeaseLost
from app.jobs.kinds import finetune
from app.jobs.verdicts import new_labels
from app.problems import StorageFull
from app.sql.tables import EncoderVersion, Image, Project, ProjectVersion
from models import metalearning
from models.metalearning.adaptation import LearnedSteps
from models.training.loop import Training
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import (
    events,
    interrupt,
    lose_files,
    losses_and_weights,
    versions,
)
from tests.characters import SIDE, character_file

RECIPE = {"epochs": 3, "rate": 3e-3, "batch_size": 8}
OPTIONS = {
    "methods": [{"name": "full"}],
    "recipe": RECIPE,
    "augmentation": [],
    "folds": 2,
}


def submit(service, **options):
    return submit_job(service, "finetune", OPTIONS | options)


def test_a_better_encoder_is_promoted_and_classifies_from_then_on(striped, do, stripes):
    before = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    location = submit(striped, recipe=RECIPE | {"epochs": 20})

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["promoted"], job["result"]
    verdict = job["result"]["verdict"]
    assert verdict["better"]
    assert verdict["against"]["prototypes"]["probability"] >= 0.9
    assert verdict["method"]["name"] in [c["method"]["name"] for c in verdict["candidates"]]
    assert 0 < verdict["share"] <= 1
    newest, oldest = versions(striped)
    assert (newest["id"], newest["parent"], newest["current"]) == (
        job["result"]["version"],
        before,
        True,
    )
    assert newest["images"] == 32
    assert newest["job"] == job["id"]
    assert not oldest["current"]
    answer = striped.post(
        "/v1/projects/birds/classify", files=[("files", stripes("level", 99))]
    ).json()
    assert answer["encoder"] == newest["id"]
    ranked = striped.post("/v1/projects/birds/pool/rank", json={"budget": 10}).json()
    assert len(ranked["images"]) == 4  # the pool was embedded as well


def test_every_epoch_tells_its_loss_rates_speed_and_time_left(striped, do):
    location = submit(striped, methods=[{"name": "discriminative", "options": {"decay": 0.5}}])

    do(striped)

    epochs = [data for data in events(striped, location) if data["stage"] == "training"]
    assert [data["epoch"] for data in epochs[:3]] == [1, 2, 3]
    assert {data["fold"] for data in epochs} >= {1, 2}
    first = epochs[0]
    assert first["loss"] > 0
    assert 0 <= first["accuracy"] <= 1
    assert first["images_per_s"] > 0
    assert epochs[-1]["seconds_left"] < first["seconds_left"]
    assert len(set(epochs[2]["rates"].values())) >= 4


@pytest.mark.parametrize(("few", "folds"), [(32, 5), (31, 3)])
def test_few_images_are_judged_on_more_folds(striped, do, monkeypatch, few, folds):
    monkeypatch.setattr(finetune, "FEW", few)
    location = submit(striped, recipe=RECIPE | {"epochs": 1}, folds=None)

    do(striped)

    epochs = [data["fold"] for data in events(striped, location) if data["stage"] == "training"]
    assert max(fold for fold in epochs if fold) == folds


def test_training_on_labels_without_a_pattern_is_not_promoted(birds, do, stripes):
    for n, label in enumerate(("a", "b")):
        files = [("files", stripes("level", 100 * n + seed)) for seed in range(8)]
        birds.post(f"/v1/projects/birds/labels/{label}/support", files=files)
    before = birds.get("/v1/projects/birds").json()["encoder"]["id"]
    location = submit(birds)

    do(birds)

    job = birds.get(location).json()
    assert job["state"] == "succeeded"
    assert not job["result"]["promoted"]
    assert birds.get("/v1/projects/birds").json()["encoder"]["id"] == before
    assert len(versions(birds)) == 2  # the version is there to look at, and to promote by hand


@pytest.mark.parametrize(("promote", "promoted"), [("never", False), ("always", True)])
def test_a_client_may_decide_about_promotion(striped, do, promote, promoted):
    location = submit(striped, recipe=RECIPE | {"epochs": 1}, promote=promote)

    do(striped)

    assert striped.get(location).json()["result"]["promoted"] is promoted


def test_a_second_training_starts_where_no_label_was_seen_and_meets_the_champion(striped, do):
    base = versions(striped)[0]["id"]
    submit(striped, promote="always")
    do(striped)
    champion = versions(striped)[0]["id"]
    location = submit(striped, recipe=RECIPE | {"epochs": 2})

    do(striped)

    verdict = striped.get(location).json()["result"]["verdict"]
    assert set(verdict["against"]) == {"prototypes", "champion"}
    newest = versions(striped)[0]
    assert newest["parent"] == base != champion
    # The champion is judged by what its own cross-validation said, not by images it has learned.
    images = striped.get(f"/v1/projects/birds/encoders/{champion}/images?limit=1000").json()[
        "items"
    ]
    honest = sum(image["predicted"] == [image["label_id"]] for image in images) / len(images)
    assert verdict["against"]["champion"]["before"] == pytest.approx(honest, abs=1e-3)


def test_feature_extraction_makes_a_projection_that_can_be_loaded(striped, do):
    submit(striped, methods=[{"name": "feature_extraction"}], promote="always")

    do(striped)

    newest = versions(striped)[0]
    assert (newest["name"], newest["options"]) == ("projected", {"base": "conv4:8"})
    assert newest["current"]


def test_what_is_missing_is_counted_and_refused(birds, stripes):
    birds.post("/v1/projects/birds/labels/level/support", files=[("files", stripes("level", 0))])

    one_label = birds.post(JOBS, json={"kind": "finetune"})
    birds.post("/v1/projects/birds/labels", json={"name": "upright"})
    two_labels = birds.post(JOBS, json={"kind": "finetune"})

    assert (one_label.status_code, two_labels.status_code) == (409, 409)
    assert one_label.json()["missing_labels"] == 1
    assert one_label.json()["missing_images"] == {"level": 1}
    assert two_labels.json()["missing_labels"] == 0
    assert two_labels.json()["missing_images"] == {"level": 1, "upright": 2}
    assert "2 more image(s) of 'upright'" in two_labels.json()["detail"]


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": 3},
        {"recipe": {"epoch": 3}},
        {"recipe": {"rate": -1}},
        {"methods": [{"name": "fulll"}]},
        {"methods": [{"name": "full", "options": {"decay": 1}}]},
        {"methods": []},
        {"folds": 1},
        {"promote": "sometimes"},
        {"augmentation": [{"name": "geometric", "options": {"crop": 2}}]},
        {"augmentation": [{"name": "noise"}] * 11},
        {"per_class": {"level": [{"name": "geometrical"}]}},
        {"per_class": {"level": {"name": "geometric"}}},
        {"repeats": 21},
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(striped, options):
    answer = striped.post(JOBS, json={"kind": "finetune", "options": options})

    assert answer.status_code == 422, answer.text
    assert "/body" in answer.json()["detail"]


def test_the_same_job_is_refused_until_the_labels_change(striped, do, stripes):
    first = submit(striped)

    refused = striped.post(JOBS, json={"kind": "finetune", "options": OPTIONS})
    files = [("files", stripes("level", 70))]
    striped.post("/v1/projects/birds/labels/level/support", files=files)

    assert refused.status_code == 409
    assert first.rpartition("/")[2] in refused.json()["detail"]
    submit(striped)


def test_a_rate_that_diverges_fails_the_job_and_leaves_the_champion(striped, do):
    before = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    recipe = {"epochs": 8, "rate": 1e30, "clip_norm": 0, "optimizer": "sgd", "schedule": "constant"}
    location = submit(striped, recipe=recipe)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "the loss was nan in epoch" in job["error"]
    assert "lower rate than 1e+30" in job["error"]
    assert striped.get("/v1/projects/birds").json()["encoder"]["id"] == before
    assert len(versions(striped)) == 1


def test_images_that_cannot_be_read_any_more_are_skipped_and_counted(striped, do):
    lose_files(striped, 3, "level")
    location = submit(striped, promote="always")

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert versions(striped)[0]["images"] == 29
    (skipped, unembedded) = events(striped, location, "message")
    assert skipped == {
        "text": "3 images cannot be read any more and are left out",
        "skipped": 3,
    }
    assert "3 images" in unembedded["text"]


def test_too_few_readable_images_fail_the_job_with_advice(striped, do):
    location = submit(striped)
    lose_files(striped, 15, "level")

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "upload the missing ones again" in job["error"]


def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(striped, do):
    whole = submit(striped, promote="never")
    do(striped)
    for after in (1, 3, 7):
        location = submit(striped, promote="never")
        interrupt(striped, do, location, Training, "__next__", after)

        do(striped)

        assert losses_and_weights(striped, location) == losses_and_weights(striped, whole)


def test_an_epoch_told_before_the_first_checkpoint_is_told_once(striped, do):
    location = submit(striped, promote="never")
    interrupt(striped, do, location, Checkpoints, "write")

    do(striped)

    epochs = [(data["run"], data["epoch"]) for data in events(striped, location)]
    assert epochs[:3] == [(1, 1), (1, 2), (1, 3)]
    assert len(epochs) == len(set(epochs))


def test_a_job_interrupted_after_its_version_was_made_makes_no_second_one(striped, do):
    location = submit(striped, promote="always")
    interrupt(striped, do, location, promotion, "promote_version")

    do(striped)

    result = striped.get(location).json()["result"]
    assert result["promoted"]
    assert [v["id"] for v in versions(striped) if v["job"]] == [result["version"]]


def test_a_job_that_was_given_to_another_worker_leaves_no_version(striped, do, monkeypatch):
    submit(striped)
    state = striped.app.state.parts
    train = Training.__next__

    def lose(self):
        with state.queue.db.writing() as session:
            for job in state.queue.page("birds", None, 1):
                session.merge(job).token = UUID(int=1)
        return train(self)

    monkeypatch.setattr(Training, "__next__", lose)

    with pytest.raises(LeaseLost):
        do(striped)

    with state.queue.db.reading() as session:
        assert not list(session.scalars(select(ProjectVersion)))


def test_without_memory_the_batch_is_halved_once_and_then_there_is_advice(striped, do, monkeypatch):
    location = submit(striped)
    sizes = []

    def exhausted(self):
        sizes.append(self._recipe.batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "__next__", exhausted)

    do(striped)

    job = striped.get(location).json()
    assert sizes == [8, 4]
    assert job["state"] == "failed"
    assert "use a smaller batch_size" in job["error"]
    assert "batches of 4" in events(striped, location, "message")[0]["text"]


def test_a_full_disk_fails_the_job_which_can_then_go_on(striped, do, monkeypatch):
    location = submit(striped)
    blobs = type(striped.app.state.parts.promotions.blobs)
    put, room = blobs.put, iter(range(5))

    def full(self, content):
        if next(room, None) is None:
            raise StorageFull("the disk is full")
        return put(self, content)

    monkeypatch.setattr(blobs, "put", full)
    do(striped)
    failed = striped.get(location).json()
    monkeypatch.undo()
    striped.post(f"{location}/retry")

    do(striped)

    assert failed["state"] == "failed"
    assert "free some space and retry" in failed["error"]
    assert striped.get(location).json()["state"] == "succeeded"
    epochs = [(d["run"], d["epoch"]) for d in events(striped, location) if d["stage"] == "training"]
    # The epoch whose checkpoint did not fit is done again, and told once.
    assert len(epochs) == len(set(epochs))


def test_a_project_deleted_meanwhile_ends_the_job_quietly(striped, do, monkeypatch):
    submit(striped)
    train = Training.__next__

    def delete_project(self):
        with striped.app.state.parts.queue.db.writing() as session:
            session.execute(delete(Image))
            session.execute(delete(Project))
        monkeypatch.setattr(Training, "__next__", train)
        return train(self)

    monkeypatch.setattr(Training, "__next__", delete_project)

    with pytest.raises(LeaseLost):
        do(striped)


def test_a_learning_rate_can_be_found(striped, do):
    location = submit(striped, find_rate=True)

    do(striped)

    (message,) = events(striped, location, "message")
    assert 1e-7 < message["rate"] < 0.1
    assert striped.get(location).json()["state"] == "succeeded"


NOISY = [{"name": "noise", "options": {"deviation": 0.5}}]


def losses(service, do, *, meanwhile=lambda: None, **options):
    """Of all epochs of a job; `meanwhile` is what happens before it starts."""
    recipe = RECIPE | {"epochs": 1}
    location = submit(service, recipe=recipe, promote="never", **options)
    meanwhile()
    do(service)
    job = service.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    return [data["loss"] for data in events(service, location)]


def test_labels_with_policies_of_their_own_are_not_augmented_by_that_of_the_others(striped, do):
    plain = losses(striped, do, augmentation=[])
    noisy = losses(striped, do, augmentation=NOISY)

    exempt = losses(striped, do, augmentation=NOISY, per_class={"level": [], "upright": []})
    per_label = losses(striped, do, augmentation=[], per_class={"level": NOISY, "upright": NOISY})
    half = losses(striped, do, augmentation=NOISY, per_class={"level": []})

    assert exempt == plain
    assert per_label == noisy
    assert len({half[0], plain[0], noisy[0]}) == 3


def test_a_policy_stays_with_its_label_when_names_change_before_the_job_starts(striped, do):
    labels = "/v1/projects/birds/labels"

    def swap():
        for name, new in (("level", "other"), ("upright", "level"), ("other", "upright")):
            assert striped.patch(f"{labels}/{name}", json={"name": new}).status_code == 200

    level = losses(striped, do, augmentation=[], per_class={"level": NOISY})
    upright = losses(striped, do, augmentation=[], per_class={"upright": NOISY})

    swapped = losses(striped, do, augmentation=[], per_class={"level": NOISY}, meanwhile=swap)

    assert swapped == level != upright


def test_a_label_deleted_before_the_job_starts_takes_its_policy_along(striped, do, png):
    for n in range(2):
        files = [("files", png("red", n))]
        striped.post("/v1/projects/birds/labels/red/support", files=files)

    def delete_label():
        assert striped.delete("/v1/projects/birds/labels/red").status_code == 204

    assert losses(striped, do, per_class={"red": NOISY}, meanwhile=delete_label)


def test_policies_are_stored_by_the_ids_of_their_labels_so_the_same_job_is_known(striped):
    label_id = striped.get("/v1/projects/birds/labels/level").json()["id"]
    location = submit(striped, per_class={"level": NOISY})

    refused = striped.post(
        JOBS, json={"kind": "finetune", "options": OPTIONS | {"per_class": {label_id: NOISY}}}
    )

    assert striped.get(location).json()["options"]["per_class"] == {label_id: NOISY}
    assert refused.status_code == 409


def test_labels_that_do_not_exist_are_named_when_the_job_is_submitted(striped):
    def refused(per_class):
        answer = striped.post(
            JOBS, json={"kind": "finetune", "options": OPTIONS | {"per_class": per_class}}
        )
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "/problems/invalid-request"
        return answer.json()["detail"]

    label_id = striped.get("/v1/projects/birds/labels/level").json()["id"]

    assert "'flat', 'steep'; GET" in refused({"flat": [], "level": [], "steep": NOISY})
    assert "'n9' and 5 more" in refused({f"n{n}": [] for n in range(15)})
    assert "two spellings" in refused({"level": [], label_id: NOISY})
    assert not striped.get(JOBS).json()["items"]


def test_a_job_waits_while_the_database_is_away(striped, do, monkeypatch):
    location = submit(striped)
    queue = type(striped.app.state.parts.queue)
    record, losses = queue.record, iter(range(3))

    def away(self, *arguments):
        if next(losses, None) is not None:
            raise OperationalError("INSERT", {}, Exception("connection refused"))
        return record(self, *arguments)

    monkeypatch.setattr(queue, "record", away)
    monkeypatch.setattr(context, "PATIENCE_S", 0.01)

    do(striped)

    assert next(losses, None) is None
    assert striped.get(location).json()["state"] == "succeeded"
    epochs = [(data["run"], data["epoch"]) for data in events(striped, location)[:3]]
    assert epochs == [(1, 1), (1, 2), (1, 3)]


METATRAIN = {
    "projects": ["earlier"],
    "method": {"name": "maml", "options": {"steps": 2}},
    "encoder": {"name": "conv4", "options": {"width": 8, "image_side": SIDE}},
    "ways": 3,
    "shots": 1,
    "queries": 2,
    "episodes": 4,
    "rate": 0.003,
    "promote": "always",
}
ADAPT = {"methods": [{"name": "adapt"}], "recipe": {"batch_size": 8}, "promote": "always"}


def add_characters(service, project, labels, each):
    for label in labels:
        files = [("files", character_file(label, number)) for number in range(each)]
        service.post(f"/v1/projects/{project}/labels/c{label}/support", files=files)


@pytest.fixture
def metatrained(filled, do, monkeypatch):
    """Makes a service whose project `birds` is served by an encoder that has learned steps."""
    monkeypatch.setattr(new_labels, "EPISODES", 4)
    monkeypatch.setattr(metalearning, "DEAR_VALIDATION_EPISODES", 2)

    def make(**options):
        def fill(service):
            service.post("/v1/projects", json={"name": "earlier"})
            add_characters(service, "earlier", range(20, 28), 3)
            add_characters(service, "birds", range(4), 6)
            location = submit_job(service, "metatrain", METATRAIN | options)
            do(service)
            job = service.get(location).json()
            assert job["state"] == "succeeded", job["error"]

        return filled(f"metatrained {options}", fill)

    return make


class TestOnEachDatabase:
    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(self, request):
        return request.getfixturevalue("postgresql")() if request.param == "postgresql" else ""

    def test_an_encoder_adapts_by_its_own_steps_and_is_rolled_back(self, metatrained, do):
        service = metatrained()
        before = versions(service)[0]
        assert before["adapts"]
        location = submit(service, **ADAPT)

        do(service)

        job = service.get(location).json()
        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["promoted"]
        newest = versions(service)[0]
        assert (newest["parent"], newest["current"]) == (before["id"], True)
        assert newest["images"] == 4 * 6
        assert not newest["adapts"]
        verdict = job["result"]["verdict"]
        assert verdict["method"] == {"name": "adapt", "options": {}}
        assert set(verdict["against"]) == {"prototypes"}
        steps = [data for data in events(service, location) if data["stage"] == "training"]
        assert [(data["fold"], data["epoch"], data["epochs"]) for data in steps[:4]] == [
            (1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)
        ]  # fmt: skip
        # What the version before has learned is still there, and another job starts from it.
        parts = service.app.state.parts
        assert sweep(parts.db, parts.blobs).removed == 0
        again = submit(service, **ADAPT | {"folds": 3})
        do(service)
        assert versions(service)[0]["parent"] == before["id"]
        assert set(service.get(again).json()["result"]["verdict"]["against"]) == {
            "prototypes",
            "champion",
        }
        answer = service.post(f"/v1/projects/birds/encoders/{before['id']}/promote")
        assert answer.json()["promoted"]
        assert {v["id"]: v["current"] for v in versions(service)}[before["id"]]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "maml", "options": {"inner": "last_stage", "steps": 2}},
        {"name": "lstm_learner"},
    ],
    ids=str,
)
def test_other_learners_adapt_as_well_and_beside_other_methods(metatrained, do, method):
    service = metatrained(method=method, episodes=2)
    ways = [{"name": "feature_extraction"}, {"name": "adapt"}]
    location = submit(service, methods=ways, recipe=RECIPE | {"epochs": 1}, find_rate=True)

    do(service)

    job = service.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert {c["method"]["name"] for c in job["result"]["verdict"]["candidates"]} == {
        "adapt",
        "feature_extraction",
    }


def test_recipes_say_what_steps_cost_where_they_were_learned(metatrained):
    service = metatrained()

    answer = service.get("/v1/projects/birds/recipes", params={"measure": "adapt"})

    item = answer.json()["items"][-1]
    assert (item["name"], item["possible"], item["enough_labels"]) == ("adapt", True, True)
    assert 0 <= item["minutes"] < 60
    assert 0 < item["memory_mib"] < 100


@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_steps_go_on_and_end_as_if_they_had_not_been(metatrained, do, after):
    service = metatrained()
    whole = submit(service, **ADAPT | {"promote": "never"})
    do(service)
    expected = [data["loss"] for data in events(service, whole)]
    location = submit(service, **ADAPT | {"promote": "never"})
    interrupt(service, do, location, LearnedSteps, "__next__", after)

    do(service)

    assert service.get(location).json()["state"] == "succeeded"
    assert [data["loss"] for data in events(service, location)] == expected
    weights = [
        service.get(f"/v1/projects/birds/encoders/{v['id']}/weights").content
        for v in versions(service)[:2]
    ]
    assert weights[0] == weights[1]


def refuse_to_adapt(service):
    answer = service.post(JOBS, json={"kind": "finetune", "options": ADAPT})
    assert answer.status_code == 422, answer.text
    return answer.json()["detail"]


def test_an_encoder_without_steps_of_its_own_is_refused_with_what_makes_them(striped):
    detail = refuse_to_adapt(striped)

    assert "has learned no steps" in detail
    assert "`metatrain` with the method `maml` or `lstm_learner` makes a version" in detail


def test_steps_that_were_learned_from_labels_of_the_project_are_refused(metatrained):
    service = metatrained(projects=[], queries=1, ways=2)

    detail = refuse_to_adapt(service)

    assert versions(service)[0]["adapts"]
    assert versions(service)[0]["id"] in detail
    assert "on which nothing that starts from it can be judged" in detail


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda document: document["state"]["log_rates"].add_(500), "in step 1 of the inner loop"),
        (lambda document: document.update(name="telepathy"), "does not have the learner"),
        (lambda document: document["options"].update(inner="last_stage"), "is of another network"),
    ],
    ids=["too high rates", "another service", "another network"],
)
def test_steps_that_cannot_be_taken_fail_the_job_with_the_reason(metatrained, do, harm, words):
    service = metatrained()
    current, parts = versions(service)[0]["id"], service.app.state.parts
    document = parts.versions.learner(UUID(current))
    harm(document)
    with parts.db.writing() as session:
        version = session.get_one(EncoderVersion, UUID(current))
        version.learner = parts.versions.store_learner(document)
    location = submit(service, **ADAPT)

    do(service)

    job = service.get(location).json()
    assert job["state"] == "failed"
    assert words in job["error"]
    assert "inner loop" not in words or "meta-train it again with a lower one" in job["error"]
    assert versions(service)[0]["id"] == current


def test_steps_whose_file_is_lost_fail_the_job_with_what_to_do(metatrained, do):
    service = metatrained()
    parts = service.app.state.parts
    with parts.db.reading() as session:
        version = session.get_one(EncoderVersion, UUID(versions(service)[0]["id"]))
    parts.blobs.remove(version.learner)
    location = submit(service, **ADAPT)

    do(service)

    assert "restore it from a backup" in service.get(location).json()["error"]


def test_a_last_layer_for_another_number_of_labels_fails_the_job(metatrained, do):
    fixed = {"name": "maml", "options": {"steps": 1, "start": "fixed", "ways": 3}}
    service = metatrained(method=fixed)
    location = submit(service, **ADAPT)

    do(service)

    recipe = service.get("/v1/projects/birds/recipes", params={"measure": "adapt"})
    for text in (service.get(location).json()["error"], recipe.json()["items"][-1]["reason"]):
        assert "has 3 rows and the episode 4 labels" in text


@pytest.mark.cuda
class TestOnCUDA:
    @pytest.fixture
    def settings(self, settings):
        return settings.model_copy(update={"device": "cuda"})

    def test_a_better_encoder_is_promoted(self, striped, do, stripes):
        assert striped.get("/v1/version").json()["device"] == "cuda"
        test_a_better_encoder_is_promoted_and_classifies_from_then_on(striped, do, stripes)
