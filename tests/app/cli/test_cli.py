"""The command line, against a service behind a real socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from app import cli
from app.cli import demo, failures, serving
from app.settings import Settings
from app.sql.database import Database
from app.sql.tables import EncoderVersion
from app.storage.blobs import Blobs
from handful import folders
from handful.retries import RequestRefused, ServiceUnreachable

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(tmp_path, png) -> Path:
    """Class folders of nine red and nine blue pictures."""
    for colour in ("red", "blue"):
        (tmp_path / "photos" / colour).mkdir(parents=True)
        for n in range(9):
            (tmp_path / "photos" / colour / f"{n}.png").write_bytes(png(colour, n))
    return tmp_path / "photos"


def handful(*arguments, **environment) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HANDFUL_LOG_LEVEL": "WARNING", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def run(*arguments, code=0):
    """The command in this process."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def imported(url, *arguments, code=0) -> str:
    return run("import", *arguments, "--url", url, code=code).stdout.strip()


def get(url, path) -> dict:
    return httpx.get(url + path).raise_for_status().json()


def test_class_folders_become_labels(live_url, photos):
    said = imported(live_url, photos, "--project", "p")

    project = get(live_url, "/v1/projects/p")
    assert (project["labels"], project["support"], project["pool"]) == (2, 18, 0)
    assert said == "18 images added, 0 were there already, 0 failed"


def test_with_support_the_rest_of_each_label_becomes_pool(live_url, photos):
    imported(live_url, photos, "--project", "p", "--support", "2")

    project = get(live_url, "/v1/projects/p")
    assert (project["support"], project["pool"]) == (4, 14)


def test_repeating_an_import_changes_nothing(live_url, photos):
    imported(live_url, photos, "--project", "p", "--support", "2")

    said = imported(live_url, photos, "--project", "p", "--support", "2")

    assert said == "0 images added, 18 were there already, 0 failed"
    assert get(live_url, "/v1/projects/p")["support"] == 4


def test_an_import_leaves_labels_that_people_gave_since(live_url, photos):
    imported(live_url, photos, "--project", "p")
    image = get(live_url, "/v1/projects/p/images?label=red&limit=1")["items"][0]["id"]
    httpx.put(f"{live_url}/v1/projects/p/images/{image}/label", json={"label": "blue"})

    said = imported(live_url, photos, "--project", "p")

    assert said == "0 images added, 18 were there already (1 with another label), 0 failed"
    assert get(live_url, f"/v1/projects/p/images/{image}")["label"] == "blue"


def test_a_flat_folder_becomes_pool(live_url, photos):
    imported(live_url, photos / "red", "--project", "p")

    project = get(live_url, "/v1/projects/p")
    assert (project["labels"], project["support"], project["pool"]) == (0, 0, 9)


def test_an_import_says_metadata_of_all_its_images(live_url, photos):
    imported(live_url, photos, "--project", "p", "--metadata", "camera=north", "--metadata", "d=1")

    images = get(live_url, "/v1/projects/p/images?metadata=camera%3Dnorth")["items"]
    assert len(images) == 18
    assert images[0]["metadata"] == {"camera": "north", "d": "1"}


def test_a_table_names_what_it_cannot_bring_and_keeps_labels_that_are_there(
    live_url, photos, tmp_path
):
    imported(live_url, photos / "red", "--project", "p")
    images = get(live_url, "/v1/projects/p/images")["items"]
    first, second = (image["id"] for image in images[:2])
    httpx.post(f"{live_url}/v1/projects/p/labels", json={"name": "old"})
    httpx.put(f"{live_url}/v1/projects/p/images/{first}/label", json={"label": "old"})
    table = tmp_path / "labels.csv"
    table.write_text(f"id,label\n{first},new\n{second},new\n{first[:-4]}0000,new\n")

    result = run("import", table, "--project", "p", "--url", live_url, code=1)

    said = "3 images in csv_manifest: 0 are new, 1 got a label, 1 labels are new, 1 failed"
    assert result.stdout.strip() == said
    assert f"{first[:-4]}0000" in result.stderr
    assert get(live_url, f"/v1/projects/p/images/{first}")["label"] == "old"


def test_a_file_brings_its_own_metadata_and_support(live_url, tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\n")
    given = ("import", tmp_path / "labels.csv", "--project", "p", "--url", live_url)

    result = run(*given, "--support", "1", code=2)

    assert "are for folders" in result.stderr
    assert get(live_url, "/v1/projects")["items"] == []


def test_files_that_cannot_be_used_are_named_and_the_others_go_in(live_url, photos):
    (photos / "red" / "broken.png").write_bytes(b"no image")

    result = run("import", photos, "--project", "p", "--url", live_url, code=1)

    assert "18 images added, 0 were there already, 1 failed" in result.stdout
    assert "broken.png: the file is not an image that we know" in result.stderr


def test_a_folder_whose_name_cannot_be_a_label_fails_alone(live_url, photos):
    (photos / "red").rename(photos / ("r" * 250))

    result = run("import", photos, "--project", "p", "--url", live_url, code=1)

    assert "9 images added, 0 were there already, 9 failed" in result.stdout
    assert get(live_url, "/v1/projects/p")["support"] == 9


def test_hidden_files_and_other_files_are_not_images(photos):
    for name in (".hidden.png", "notes.txt", "red/._1.png"):
        (photos / name).write_bytes(b"")

    assert len(folders.scan(photos)) == 18


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_images_is_refused(tmp_path, missing):
    (tmp_path / "empty").mkdir()

    with pytest.raises(folders.NothingToImport, match=missing):
        folders.scan(tmp_path / missing)


def test_large_files_travel_alone(photos, monkeypatch):
    monkeypatch.setattr(folders, "REQUEST_BYTES", 1)

    batches = list(folders._batches(folders.scan(photos)))

    assert [len(batch) for batch in batches] == [1] * 18


def test_a_project_is_exported_to_a_file_that_can_be_imported(live_url, photos, tmp_path):
    imported(live_url, photos, "--project", "p")
    output = tmp_path / "p.zip"

    said = run("export", output, "--project", "p", "--split", "train=1", "--url", live_url)

    assert said.stdout.strip() == f"{output}: {output.stat().st_size} bytes"
    again = run("import", output, "--project", "r", "--url", live_url)
    assert again.stdout.strip() == (
        "18 images in folders: 18 are new, 18 got a label, 2 labels are new, 0 failed"
    )
    httpx.post(f"{live_url}/v1/projects", json={"name": "q"})
    answer = httpx.post(f"{live_url}/v1/projects/q/import", content=output.read_bytes())
    assert (answer.json()["created"], answer.json()["failed"]) == (18, [])
    assert get(live_url, "/v1/projects/q")["support"] == 18


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--project", "none"], "there is no project 'none'"),
        (["--project", "p", "--format", "xml"], "xml"),
        (["--project", "p", "--split", "half"], "train=0.8"),
        (["--project", "p", "--split", "train=0.5"], "sum to 0.5"),
    ],
)
def test_an_export_that_is_refused_leaves_no_file(live_url, tmp_path, arguments, sentence):
    httpx.post(f"{live_url}/v1/projects", json={"name": "p"})
    command = ["export", str(tmp_path / "x.zip"), *arguments, "--url", live_url]

    result = CliRunner().invoke(cli.app, command)

    assert isinstance(result.exception, Exception)
    assert failures._sentence(result.exception)
    assert sentence in str(result.exception)
    assert not list(tmp_path.glob("*x.zip*"))


def test_an_export_that_breaks_off_leaves_no_file(live_url, photos, tmp_path, monkeypatch):
    imported(live_url, photos, "--project", "p")

    def fail(*_) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("app.exchange.exports.Exports._content", fail)
    command = ["export", str(tmp_path / "x.zip"), "--project", "p", "--url", live_url]

    result = CliRunner().invoke(cli.app, command)

    assert isinstance(result.exception, ServiceUnreachable)
    assert not list(tmp_path.glob("*x.zip*"))


def test_label_opens_the_page_of_a_project(live_url, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    httpx.post(f"{live_url}/v1/projects", json={"name": "a b"})

    said = run("label", "--project", "a b", "--url", live_url).stdout.strip()

    assert opened == [said] == [f"{live_url}/#/a%20b/label"]
    refused = run("label", "--project", "c", "--url", live_url, code=1).exception
    assert isinstance(refused, RequestRefused)
    assert refused.status == 404
    assert len(opened) == 1


def test_classify_prints_a_line_for_each_file(live_url, photos):
    imported(live_url, photos, "--project", "p")
    files = [photos / "red" / "0.png", photos / "blue" / "0.png"]

    lines = run("classify", *files, "--project", "p", "--url", live_url).stdout.splitlines()

    assert [line.split("\t")[:2] for line in lines] == [
        [str(files[0]), "red"],
        [str(files[1]), "blue"],
    ]


def test_classify_as_json_has_all_that_came(live_url, photos):
    imported(live_url, photos, "--project", "p")
    file = photos / "red" / "0.png"

    said = run("classify", file, "--project", "p", "--json", "--url", live_url).stdout

    prediction = json.loads(said)
    assert prediction["file"] == str(file)
    assert [one["label"] for one in prediction["probabilities"]] == ["red", "blue"]


def test_classify_names_the_files_that_cannot_be_used(live_url, photos, tmp_path):
    imported(live_url, photos, "--project", "p")
    (tmp_path / "text.png").write_text("no image")

    result = run("classify", tmp_path / "text.png", "--project", "p", "--url", live_url, code=1)

    assert "text.png: the file is not an image" in result.stderr


def test_a_missing_file_is_named_before_anything_is_sent(tmp_path):
    result = CliRunner().invoke(cli.app, ["classify", str(tmp_path / "none.png"), "--project", "p"])

    assert isinstance(result.exception, folders.NothingToImport)
    assert "none.png" in str(result.exception)


def test_the_demo_shows_the_whole_loop(photos, tmp_path):
    result = handful(
        "demo", "--images", photos, "--once", "--port", "0",
        HANDFUL_DATA_DIR=str(tmp_path / "data"), HANDFUL_ENCODER="conv4:8",
        HANDFUL_RUNTIME="pytorch",
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "Accuracy 100.0%" in result.stdout
    assert "8 of 8 images right" in result.stdout
    assert "Most worth labeling next" in result.stdout
    assert "/docs" in result.stdout


def test_the_digits_of_the_demo_are_images_in_class_folders(tmp_path):
    sources = demo.choose(demo.write_digits(tmp_path / "digits"))

    assert len(sources) == 1797
    assert sum(source.label is not None for source in sources) == 50


def test_the_demo_says_which_images_it_needs(photos):
    for path in (photos / "red").iterdir():
        path.unlink()

    with pytest.raises(demo.DemoRefused, match="at least two folders"):
        demo.choose(photos)


def test_serve_answers_until_it_is_told_to_stop(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(port)],
        cwd=ROOT,
        env=os.environ
        | {
            "HANDFUL_DATA_DIR": str(tmp_path),
            "HANDFUL_ENCODER": "conv4:8",
            "HANDFUL_RUNTIME": "pytorch",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        answer = _ask_until_ready(f"http://127.0.0.1:{port}/readyz")
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)

    assert answer == {"ready": True, "checks": {"database": "ok", "encoder": "ok", "disk": "ok"}}
    assert server.returncode == 0
    assert f"Handful on http://127.0.0.1:{port}" in said
    assert f"ready: http://127.0.0.1:{port}" in said.splitlines()
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    requests = [event for event in events if event["event"] == "request"]
    assert requests[-1]["path"] == "/readyz"
    assert requests[-1]["request_id"]


def _ask_until_ready(url) -> dict:
    for _ in range(300):
        try:
            if (answer := httpx.get(url)).status_code == 200:
                return answer.json()
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} did not become ready")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"HANDFUL_HOST": "0.0.0.0"}, "set HANDFUL_API_KEY"),
        ({"HANDFUL_PORT": "many"}, "HANDFUL_PORT='many'"),
        ({"HANDFUL_ENCODER": "resnet"}, "there is no encoder 'resnet'"),
        ({"HANDFUL_DEVICE": "cuda:99"}, "use auto or cpu"),
        (
            {"HANDFUL_RUNTIME": "tpu"},
            "there is no runtime 'tpu'; known are auto, cuda_graphs, onnx",
        ),
        ({"HANDFUL_DATA_DIR": "/dev/null/x"}, "the data folder /dev/null/x cannot be used"),
        ({"HANDFUL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}, "database cannot be"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_sentence(refusal, environment, sentence):
    assert sentence in refusal(environment)


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """The one sentence of a service that cannot start in an environment."""

    def start(environment, *options: str) -> str:
        defaults = {
            "HANDFUL_DATA_DIR": str(tmp_path),
            "HANDFUL_PORT": "0",
            "HANDFUL_LOG_LEVEL": "WARNING",
        }
        for name, value in (defaults | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["handful", "serve", *options])

        with pytest.raises(SystemExit) as ended:
            cli.main()

        assert ended.value.code == 1
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence

    return start


def test_a_port_in_use_is_refused_with_a_way_out(refusal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        sentence = refusal({"HANDFUL_ENCODER": "conv4:8"}, "--port", str(port))

        assert "Address already in use" in sentence
        assert "--port" in sentence
        with serving._listen(Settings(port=port), or_any=True) as another:
            assert another.getsockname()[1] != port


def test_settings_lists_every_variable_and_hides_the_key(monkeypatch):
    monkeypatch.setenv("HANDFUL_API_KEY", "very-secret")
    monkeypatch.setenv("COLUMNS", "200")

    said = run("settings").stdout

    assert all(f"HANDFUL_{name.upper()}" in said for name in Settings.model_fields)
    assert "very-secret" not in said


def test_version_is_that_of_the_package():
    assert run("version").stdout == "handful 0.1.0\n"


def test_migrate_and_sweep_work_on_the_database_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDFUL_DATA_DIR", str(tmp_path))

    assert "the database is at head" in run("migrate").stdout
    assert "0 files removed" in run("sweep").stdout
    assert (tmp_path / "handful.sqlite").exists()


def test_check_lists_what_is_wrong_with_files_and_fails_only_for_a_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDFUL_DATA_DIR", str(tmp_path))
    assert "every file is there" in run("check").stdout
    orphan = Blobs(str(tmp_path / "blobs")).put(b"orphan")

    (line,) = run("check", "--json").stdout.splitlines()

    assert json.loads(line) == {
        "problem": "orphaned",
        "sha256": orphan,
        "bytes": 6,
        "uses": [],
        "advice": "nothing: a sweep removes it an hour after another has seen it",
    }
    assert run("check").stdout.splitlines()[1].startswith(f"orphaned\t{orphan}\t")

    database = Database(Settings().database)
    with database.writing() as session:
        lost = EncoderVersion(architecture="a", options={}, weights="0" * 64, embedding_dim=1)
        session.add(lost)
    database.close()
    listed = run("check", code=1).stdout
    assert f"missing\t{'0' * 64}\tweights {lost.id}\trestore the file" in listed


def started(url, photos) -> str:
    """The id of a job that waits in a project `p`."""
    imported(url, photos, "--project", "p")
    options = {"methods": [{"name": "full"}], "recipe": {"epochs": 2}, "folds": 2}
    answer = httpx.post(f"{url}/v1/projects/p/jobs", json={"kind": "finetune", "options": options})
    return answer.raise_for_status().json()["id"]


@pytest.mark.slow
def test_a_job_is_watched_until_it_ends_and_then_listed(live_service, photos, do):
    url, app = live_service
    job = started(url, photos)
    do(app)

    watched = run("jobs", "watch", job, "--project", "p", "--url", url).stdout
    listed = run("jobs", "list", "--project", "p", "--url", url).stdout

    assert "succeeded: version" in watched
    assert all(word in " ".join(listed.split()) for word in ("finetune", "succeeded", "version"))


def test_a_job_that_was_cancelled_ends_its_watch_with_an_error(live_url, photos):
    job = started(live_url, photos)

    cancelled = run("jobs", "cancel", job, "--project", "p", "--url", live_url).stdout
    watched = run("jobs", "watch", job, "--project", "p", "--url", live_url, code=1).stdout

    assert cancelled.strip() == "cancelled"
    assert "cancelled" in watched
