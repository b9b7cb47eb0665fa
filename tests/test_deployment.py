"""Package, image, compose file and workflows, as far as they can be checked unbuilt."""

import fnmatch
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from fastapi.routing import APIRoute
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from app import cli
from app.api import routers
from app.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB.glob("workflows/*")}
FORMS = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB.glob("ISSUE_TEMPLATE/*")}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
SERVERS = [name for name in OURS if "ports" in SERVICES[name]]
PROFILES = sorted({p for service in SERVICES.values() for p in service.get("profiles", [])})
SETTINGS = {f"HANDFUL_{name.upper()}" for name in Settings.model_fields}
COMMANDS = set(typer.main.get_group(cli.app).commands)


class Instruction(NamedTuple):
    """A line of the Dockerfile."""

    stage: int
    name: str
    argument: str


def dockerfile() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage, instructions = -1, []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        name, _, argument = line.strip().partition(" ")
        stage += name == "FROM"
        if name:
            instructions.append(Instruction(stage, name, argument.strip()))
    return instructions


def last_stage(name: str) -> list[str]:
    final = dockerfile()[-1].stage
    return [i.argument for i in dockerfile() if i.stage == final and i.name == name]


def environment() -> dict[str, str]:
    pairs = (pair.partition("=") for line in last_stage("ENV") for pair in shlex.split(line))
    return {name: value for name, _, value in pairs}


def copied() -> list[str]:
    """What the image takes from the repository."""
    arguments = [
        i.argument for i in dockerfile() if i.name == "COPY" and "--from" not in i.argument
    ]
    return [source for argument in arguments for source in argument.split()[:-1]]


def healthcheck() -> list[str]:
    command: list[str] = json.loads(last_stage("HEALTHCHECK")[0].partition(" CMD ")[2])
    return command


# The image


@pytest.mark.parametrize("source", copied())
def test_what_the_image_copies_exists_and_reaches_the_build(source):
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]

    assert (ROOT / source).exists()
    assert "*" in rules
    assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed)


def test_the_image_copies_all_that_the_wheel_is_built_from():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], PROJECT["project"]["readme"]}

    assert needed | {*PROJECT["project"]["license-files"]} <= {*copied()}


def test_the_first_layer_installs_the_dependencies_of_the_project(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (command,) = (i.argument for i in dockerfile() if "> requirements.txt" in i.argument)

    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)

    written = (tmp_path / "requirements.txt").read_text().splitlines()
    assert written == [*PROJECT["project"]["dependencies"], *EXTRAS["server"]]


def test_the_image_has_the_service_and_not_only_its_client():
    commands = [i.argument for i in dockerfile() if i.name == "RUN" and i.argument.endswith("]'")]

    assert [shlex.split(command)[-1] for command in commands] == [".[server]"]


def test_the_image_runs_as_a_user_of_its_own():
    (user,) = last_stage("USER")
    made = " ".join(last_stage("RUN"))

    assert user not in {"root", "0"}
    assert re.search(rf"useradd .*\b{user}\b", made)
    assert re.search(rf"install --directory --owner={user} .*{last_stage('VOLUME')[0]}", made)


def test_the_image_starts_a_command_that_exists():
    program, command = json.loads(last_stage("CMD")[0])

    assert program in PROJECT["project"]["scripts"]
    assert command in COMMANDS


def test_the_image_listens_where_it_says_and_keeps_its_data_on_the_volume():
    env = environment()

    assert {name for name in env if name.startswith("HANDFUL_")} <= SETTINGS
    assert [env["HANDFUL_PORT"]] == last_stage("EXPOSE")
    assert [env["HANDFUL_DATA_DIR"]] == last_stage("VOLUME")
    assert env["XDG_CACHE_HOME"].startswith(env["HANDFUL_DATA_DIR"])


def test_the_image_does_not_start_without_a_key(monkeypatch):
    monkeypatch.delenv("HANDFUL_API_KEY", raising=False)

    with pytest.raises(ValidationError, match="HANDFUL_API_KEY"):
        Settings(host=environment()["HANDFUL_HOST"])


def test_the_health_check_asks_for_a_route_that_exists():
    (path,) = re.findall(r"'(/\w+)'", healthcheck()[-1])

    routes = [route for router in routers() for route in router.routes]
    assert path in {route.path for route in routes if isinstance(route, APIRoute)}


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_ready_from_not_ready(status, healthy):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = os.environ | {
            "HANDFUL_PORT": str(server.server_port),
            "http_proxy": "http://127.0.0.1:9",  # what a container may inherit must not matter
        }
        check = subprocess.run(healthcheck(), env=env, capture_output=True, check=False)
        server.shutdown()

    assert (check.returncode == 0) is healthy


# The package


def names(lines: list[str]) -> set[str]:
    return {Requirement(line).name for line in lines}


def parts(extra: str) -> set[str]:
    """The extras that an extra adds to."""
    return {
        part
        for requirement in map(Requirement, EXTRAS[extra])
        if requirement.name == PROJECT["project"]["name"]
        for part in requirement.extras
    }


def test_without_an_extra_the_client_and_the_command_line_come_alone():
    assert names(PROJECT["project"]["dependencies"]) == {"httpx", "pydantic", "rich", "typer"}


def test_every_extra_adds_to_the_service_and_development_has_them_all():
    assert not parts("server")
    assert parts("dev") == EXTRAS.keys() - {"dev"}
    for extra in EXTRAS.keys() - {"dev", "server"}:
        assert parts(extra) == {"server"}


def test_a_requirement_is_written_in_one_place():
    lines = [PROJECT["project"]["dependencies"], *EXTRAS.values()]
    every = [name for group in lines for name in names(group) - {PROJECT["project"]["name"]}]

    assert sorted(every) == sorted(set(every))


def test_the_constraints_pin_every_direct_dependency_to_a_version_it_accepts():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    direct = [*PROJECT["project"]["dependencies"], *itertools.chain(*EXTRAS.values())]

    for requirement in map(Requirement, direct):
        if requirement.name != PROJECT["project"]["name"]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_the_oldest_versions_are_the_lower_bounds_of_all_that_is_not_for_development():
    result = subprocess.run(
        ["make", "--no-print-directory", "floors", "FLOORS_EXCEPT=", "TEST_TOOLS="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    oldest = {floor.name: floor for floor in map(Requirement, result.stdout.splitlines())}
    lines = [*PROJECT["project"]["dependencies"]]
    lines += [line for extra, group in EXTRAS.items() if extra != "dev" for line in group]

    assert oldest.keys() == names(lines) - {PROJECT["project"]["name"]}
    for requirement in map(Requirement, lines):
        if requirement.name in oldest:
            version = str(oldest[requirement.name].specifier).removeprefix("==")
            assert str(requirement.specifier) == f">={version}"


def test_the_citation_says_what_the_package_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]

    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "message"} <= citation.keys()
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["abstract"] == project["description"]
    assert citation["keywords"] == project["keywords"]
    assert citation["repository-code"] == project["urls"]["Source"]


def test_every_address_of_the_project_is_in_its_repository():
    urls = PROJECT["project"]["urls"]
    prefix = re.compile(rf"{re.escape(urls['Source'])}(/(?:tree|blob)/main/(?P<path>.+)|/\w+)?")

    for url in urls.values():
        match = prefix.fullmatch(url)
        assert match
        assert (ROOT / (match["path"] or "")).exists()


# The compose file


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_an_image_and_waits_only_for_what_can_happen(name):
    service = SERVICES[name]

    assert service.get("image") or service.get("build")
    for target, wait in service.get("depends_on", {}).items():
        # Compose refuses a service whose dependency belongs to a profile that is not active.
        assert set(service["profiles"]) <= set(SERVICES[target]["profiles"])
        if wait["condition"] == "service_healthy":
            assert "test" in SERVICES[target]["healthcheck"]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert SERVICES[target]["restart"] == "no"


def test_every_volume_is_declared_and_used():
    mounted = {v.partition(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}

    assert mounted == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_is_confined(name):
    service = SERVICES[name]

    assert (ROOT / service["build"]["context"] / "Dockerfile").exists()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    assert service["volumes"][0].endswith(f":{environment()['HANDFUL_DATA_DIR']}")


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_uses_settings_and_commands_that_exist(name):
    service = SERVICES[name]
    variables = {v for v in service["environment"] if v.startswith("HANDFUL_")}
    program, command = service.get("command") or json.loads(last_stage("CMD")[0])

    assert "HANDFUL_API_KEY" in variables
    assert variables <= SETTINGS
    assert program in PROJECT["project"]["scripts"]
    assert command in COMMANDS


def test_compose_asks_for_a_key_and_for_nothing_else_that_a_profile_alone_needs():
    text = (ROOT / "docker-compose.yml").read_text()

    required = set(re.findall(r"\$\{(\w+):\?", text))
    defaulted = set(re.findall(r"\$\{(\w+):-", text))

    assert required == {"HANDFUL_API_KEY"}
    assert required | defaulted == set(re.findall(r"\$\{?(\w+)", text))


def test_without_a_profile_one_server_starts_and_no_port_is_open_to_the_network():
    started = [name for name in SERVICES if "profiles" not in SERVICES[name]]
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert started == ["handful"]
    assert len(published) == len(SERVERS)
    assert set(published) == {f"127.0.0.1:8000:{environment()['HANDFUL_PORT']}"}


def test_two_databases_never_share_a_folder_of_images():
    by_volume: dict[str, set[str]] = {}
    for name in OURS:
        url = SERVICES[name]["environment"].get("HANDFUL_DATABASE_URL", "sqlite")
        by_volume.setdefault(SERVICES[name]["volumes"][0], set()).add(url)

    assert all(len(urls) == 1 for urls in by_volume.values())


@pytest.mark.parametrize("service", SERVERS)
def test_the_documentation_shows_how_to_start_each_server(service):
    profile = "".join(f"--profile {p} " for p in SERVICES[service].get("profiles", []))
    named = f" {service}" if profile else ""
    command = f"docker compose {profile}up --detach{named}"

    assert command in (ROOT / "docs/deployment.md").read_text()
    assert command in (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_docker_compose_accepts_the_file(profile):
    if (
        not shutil.which("docker")
        or subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("Docker with its Compose plug-in is not installed here")
    chosen = ["--profile", profile] if profile else []

    result = subprocess.run(
        ["docker", "compose", *chosen, "config", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"HANDFUL_API_KEY": "key", "POSTGRES_PASSWORD": "password"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr


# The checks


def test_ci_runs_the_tests_and_the_demo():
    script = ROOT / ".ci/run"
    text = script.read_text()

    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert re.search(r"\bmake test$", text, re.MULTILINE)
    assert re.search(r"\bmake test-minimal$", text, re.MULTILINE)
    assert re.search(r"\bmake demo ONCE=1$", text, re.MULTILINE)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_tests_of_other_environments_exist():
    result = subprocess.run(
        ["make", "--dry-run", "test-minimal"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    runs = re.findall(r"^(\S+)/bin/pytest .*?(\btests/.*)$", result.stdout, re.MULTILINE)

    assert [environment for environment, _ in runs] == [".venv-minimal", ".venv-floors"]
    for _, paths in runs:
        assert all((ROOT / path).exists() for path in paths.split())


def test_the_workflow_checks_each_python_that_the_project_names():
    checks = WORKFLOWS["ci"]["jobs"]["checks"]
    versions = checks["strategy"]["matrix"]["python"]
    classifiers = re.findall(
        r"^Programming Language :: Python :: (\d+\.\d+)$",
        "\n".join(PROJECT["project"]["classifiers"]),
        re.MULTILINE,
    )
    (step,) = (step for step in checks["steps"] if step.get("run") == ".ci/run")
    first = int(versions[0].removeprefix("3."))

    assert step["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert versions == classifiers
    assert versions == [f"3.{first + i}" for i in range(len(versions))]


def test_a_release_publishes_what_was_checked_built_and_tested():
    jobs = WORKFLOWS["release"]["jobs"]
    commands = "\n".join(step.get("run", "") for step in jobs["build"]["steps"])
    (tests,) = re.findall(r"pytest (tests/\S+)", commands)

    assert set(jobs["publish"]["needs"]) == {"checks", "build"}
    assert jobs["checks"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["publish"]["environment"] == "pypi"
    assert "export HANDFUL_TEST_WHEEL=" in commands
    assert "HANDFUL_TEST_WHEEL" in (ROOT / tests).read_text()


def test_only_the_job_that_publishes_may_do_more_than_read():
    elevated = {
        (workflow, name): rights
        for workflow, document in WORKFLOWS.items()
        for name, job in document["jobs"].items()
        if (rights := job.get("permissions", document["permissions"])) != {"contents": "read"}
    }

    assert elevated == {("release", "publish"): {"id-token": "write"}}


def test_every_action_is_of_one_major_version():
    jobs = [job for document in WORKFLOWS.values() for job in document["jobs"].values()]
    actions = {step["uses"] for job in jobs for step in job.get("steps", []) if "uses" in step}

    assert actions
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action) for action in actions)


def test_a_form_for_bugs_asks_for_the_request_the_answer_and_its_id():
    fields = {form: [f["id"] for f in FORMS[form]["body"] if "id" in f] for form in ("bug", "idea")}

    assert {"request", "answer", "request-id"} <= set(fields["bug"])
    for form, ids in fields.items():
        assert FORMS[form]["name"]
        assert FORMS[form]["description"]
        assert len(ids) == len(set(ids))
    for link in FORMS["config"]["contact_links"]:
        assert link["url"].startswith(PROJECT["project"]["urls"]["Source"])


def test_pre_commit_runs_tools_that_make_check_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    checked = re.findall(r"\$\(BIN\)/([\w-]+)", (ROOT / "Makefile").read_text())

    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["entry"].split()[0].removeprefix(".venv/bin/") in checked
