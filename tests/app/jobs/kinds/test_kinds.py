"""Every kind of job, from being asked for to its result, on PostgreSQL; others try them closer."""

from typing import Any

import pytest

from app.jobs.kinds import kinds
from tests.app.jobs.conftest import submit_job
from tests.app.jobs.kinds.conftest import versions

SHORT = {"epochs": 1, "rate": 1e-3, "batch_size": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "augmentation_search": {
        "search": {"name": "grid", "options": {"n": [1], "m": [3]}},
        "images": 16,
        "views": 1,
    },
    "finetune": {
        "methods": [{"name": "feature_extraction"}],
        "recipe": SHORT,
        "augmentation": [],
        "folds": 2,
        "promote": "never",
    },
    "generate": {
        "groups": [{"name": "clusters"}, {"name": "cvae", "options": {"steps": 100}}],
        "promote": "never",
    },
    "metatrain": {"ways": 2, "shots": 1, "queries": 1, "episodes": 2, "promote": "never"},
    "pretrain": {"epochs": 1, "batch_size": 36, "promote": "never"},
    "transduce": {"alpha_tim": {"epochs": 1, "rate": 0.01}},
    "promote": {},  # the version that is there by then
}


@pytest.fixture
def database_url(postgresql) -> str:
    return postgresql()


def test_every_kind_of_job_succeeds_on_postgresql(striped, do, stripes):
    assert set(OPTIONS) == set(kinds)
    states = {}
    striped.patch("/v1/projects/birds", json={"head": {"name": "auto"}}).raise_for_status()
    for n, label in enumerate(("faint", "strong")):  # two labels more, to judge with
        files = [("files", stripes("level", 100 + 2 * k + n, 0.2 * n)) for k in range(2)]
        striped.post(f"/v1/projects/birds/labels/{label}/support", files=files)

    def do_job(kind, options):
        location = submit_job(striped, kind, options)
        do(striped)
        job = striped.get(location).json()
        return job["state"], job["error"]

    for kind, options in OPTIONS.items():
        newest = versions(striped)[0]["id"]
        states[kind] = do_job(kind, {"version": newest} if kind == "promote" else options)
    of_a_head = OPTIONS["metatrain"] | {"method": {"name": "feat"}, "promote": "always"}

    assert states == dict.fromkeys(kinds, ("succeeded", None))
    assert do_job("metatrain", of_a_head) == ("succeeded", None)
    assert striped.get("/v1/projects/birds").json()["head"]["name"] == "learned"
