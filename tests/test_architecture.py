"""The rules of the house that no tool checks."""

import ast
import inspect
import re
import statistics
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import models
from app.exchange.formats import formats
from app.jobs.kinds import kinds
from models.acquisition.strategies import strategies
from models.augmentation.kinds import augmentations
from models.augmentation_search.searches import searches
from models.encoders.architectures import architectures
from models.finetuning.methods import methods
from models.generation.generators import generators
from models.heads.kinds import heads
from models.metalearning.learners import learners
from models.pretraining.methods import methods as pretexts
from models.registry import Registry
from models.runtimes.kinds import runtimes

ROOT = Path(__file__).parent.parent
REGISTRIES: dict[str, Registry[Any]] = {
    "app/exchange/formats": formats,
    "app/jobs/kinds": kinds,
    "models/acquisition/strategies": strategies,
    "models/augmentation/kinds": augmentations,
    "models/augmentation_search/searches": searches,
    "models/encoders/architectures": architectures,
    "models/finetuning/methods": methods,
    "models/generation/generators": generators,
    "models/heads/kinds": heads,
    "models/metalearning/learners": learners,
    "models/pretraining/methods": pretexts,
    "models/runtimes/kinds": runtimes,
}
PLUG_INS = [
    pytest.param(kind, name, plugin, id=f"{kind}-{name}")
    for kind, registry in REGISTRIES.items()
    for name, plugin in registry.items()
]
PACKAGES = ("app", "handful", "models")
LISTS = {"app.api", "handful.contract"}  # rooms of a module a resource, as many as there are
# Tests of what no module does alone.
WHOLE = {
    "test_bad_input",
    "test_concurrency",
    "test_fail_points",
    "test_hard_cases",
    "test_labeling_flow",
    "test_schema",
    "test_texts",
    "test_tutorial",
}
# Modules without a file of tests of their own, and where they are tested as they are used.
TESTED_BY = {
    "app/api/choices.py": "tests/app/api/test_heads.py",
    "app/api/classify.py": "tests/app/prediction/test_classify.py",
    "app/api/images.py": "tests/app/api/test_labeling_flow.py",
    "app/api/label_studio.py": "tests/app/integrations/label_studio/test_backend.py",
    "app/api/labels.py": "tests/app/labeling/test_labels.py",
    "app/api/parts.py": "tests/app/api/test_health.py",
    "app/api/pool.py": "tests/app/ranking/test_ranking.py",
    "app/api/projects.py": "tests/app/labeling/test_projects.py",
    "app/api/webhooks.py": "tests/app/webhooks/test_subscriptions.py",
    "app/cli/demo.py": "tests/app/cli/test_cli.py",
    "app/cli/serving.py": "tests/app/cli/test_cli.py",
    "app/cli/terminal.py": "tests/app/cli/test_asking.py",
    "app/cli/transfer.py": "tests/app/cli/test_cli.py",
    "app/http/errors.py": "tests/app/api/test_bad_input.py",
    "app/http/uploads.py": "tests/app/api/test_bad_input.py",
    "app/inference/images.py": "tests/app/inference/test_embedder.py",
    "app/jobs/context.py": "tests/app/jobs/test_training.py",
    "app/jobs/decoded_images.py": "tests/app/jobs/kinds/test_finetune.py",
    "app/jobs/generation/pictures.py": "tests/app/jobs/kinds/test_generate.py",
    "app/jobs/generation/suitability.py": "tests/app/jobs/kinds/test_generate.py",
    "app/jobs/generation/verdicts.py": "tests/app/jobs/kinds/test_generate.py",
    "app/jobs/planning/adaptation.py": "tests/app/jobs/kinds/test_finetune.py",
    "app/jobs/planning/memory.py": "tests/app/jobs/kinds/test_metatrain.py",
    "app/jobs/planning/policies.py": "tests/app/api/test_augmentations.py",
    "app/jobs/planning/previews.py": "tests/app/api/test_augmentations.py",
    "app/jobs/planning/starting_point.py": "tests/app/jobs/kinds/test_pretrain.py",
    "app/jobs/planning/suitability.py": "tests/app/api/test_pretraining.py",
    "app/jobs/process.py": "tests/app/jobs/test_worker.py",
    "app/jobs/promotion.py": "tests/app/jobs/kinds/test_promote.py",
    "app/jobs/training_data.py": "tests/app/jobs/kinds/test_finetune.py",
    "app/jobs/verdicts/new_labels.py": "tests/app/jobs/kinds/test_metatrain.py",
    "app/main.py": "tests/app/api/test_health.py",
    "models/training/cost.py": "tests/models/pretraining/test_cost.py",
    "app/report/evaluation.py": "tests/app/api/test_evaluate.py",
    "app/vectors/queries.py": "tests/app/vectors/test_matrices.py",
    "app/sql/tables.py": "tests/app/sql/test_database.py",
    "handful/contract": "tests/handful/test_client.py",
}
# Participles and pronouns hold nothing: a reader has to look up what they stand for.
VAGUE = {
    *("found", "told", "given", "kept", "known", "wanted", "asked", "shown", "made", "one", "some"),
    *(
        "left",
        "done",
        "said",
        "seen",
        "there",
        "others",
        "rest",
        "held",
        "taken",
        "chosen",
        "drawn",
    ),
    *("handed", "now", "moved", "mine", "own", "near", "far", "both", "another", "other", "again"),
    *("here", "apart", "meant"),
}
SHAPE = re.compile(r'(?:Bool|Float|Int|UInt8)\[\w+, " ?([^"]+)"\]')
AXIS = re.compile(r"\b([A-Z]) {2}\w")


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package, parsed."""
    return {
        module_name(path): ast.parse(path.read_text())
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The folder just below the package in which a module lies, or the module itself."""
    return ".".join(module.split(".")[:2])


def arrows(package: str) -> set[tuple[str, str]]:
    """Which module of a package imports which."""
    names = modules(package).keys()
    return {
        (module, target)
        for module, tree in modules(package).items()
        for target in imports(tree, names)
        if target != module
    }


def imports(tree: ast.Module, names) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in names or node.module in names:
                    yield whole if whole in names else node.module


def room_arrows(package: str) -> set[tuple[str, str]]:
    pairs = {(room_of(a), room_of(b)) for a, b in arrows(package)}
    return {(a, b) for a, b in pairs if a != b}


def floors(package: str) -> int:
    """Rooms on the longest way down; raises where there is a circle."""
    below = defaultdict(set)
    for room, target in room_arrows(package):
        below[room].add(target)
    depth: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():  # from the ground up
        depth[room] = 1 + max((depth[target] for target in below[room]), default=0)
    return max(depth.values())


@pytest.mark.parametrize(("kind", "name", "plugin"), PLUG_INS)
def test_a_plug_in_is_named_as_its_file_and_has_a_test(kind, name, plugin):
    assert plugin.__name__.lower() == name.replace("_", "")
    assert inspect.getsourcefile(plugin) == str(ROOT / kind / f"{name}.py")
    assert (ROOT / "tests" / kind / f"test_{name}.py").exists()


@pytest.mark.parametrize(("kind", "name", "plugin"), PLUG_INS)
def test_a_plug_in_says_what_it_does_and_documents_its_options(kind, name, plugin):
    assert inspect.getdoc(plugin)
    assert plugin.__dataclass_params__.frozen
    assert all(field.kw_only for field in plugin.__dataclass_fields__.values())


def test_every_registry_is_known_here():
    registering = {
        str(path.relative_to(ROOT).parent)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
        if "= Registry(__name__)" in path.read_text()
    }

    assert registering == set(REGISTRIES)


@pytest.mark.parametrize(
    ("package", "rooms", "most_arrows", "most_floors"),
    [("app", 24, 115, 10), ("models", 18, 45, 4)],
)
def test_rooms_are_few_and_know_few_others(package, rooms, most_arrows, most_floors):
    assert len({room_of(module) for module in modules(package) if "." in module}) <= rooms
    assert len(room_arrows(package)) <= most_arrows
    assert floors(package) <= most_floors


@pytest.mark.parametrize(("package", "least"), [("app", 0.18), ("models", 0.55)])
def test_most_a_module_needs_lies_in_its_room(package, least):
    pairs = arrows(package)

    assert sum(room_of(a) == room_of(b) for a, b in pairs) >= least * len(pairs)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_has_at_most_ten_modules(package):
    plug_in_folders = {folder.replace("/", ".") for folder in REGISTRIES}
    folders = Counter(
        module.rpartition(".")[0]
        for module in modules(package)
        if not (ROOT / module.replace(".", "/")).is_dir() and module.count(".") > 1
    )

    full = {folder: count for folder, count in folders.items() if count > 10}
    assert full.keys() <= plug_in_folders | LISTS


def test_files_of_the_service_are_short():
    sizes = [len(path.read_text().splitlines()) for path in (ROOT / "app").rglob("*.py")]

    assert statistics.median(sizes) <= 120
    assert max(sizes) <= 400


@pytest.mark.parametrize("package", PACKAGES)
def test_names_say_what_they_hold(package):
    names = [
        node.arg if isinstance(node, ast.arg) else node.id
        for tree in modules(package).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.arg)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    vague = Counter(name for name in names if name in VAGUE)

    assert vague.total() <= 0.01 * len(names), vague.most_common()


def test_no_public_class_has_the_name_of_another():
    places = defaultdict(set)
    for package in PACKAGES:
        for module, tree in modules(package).items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].add(module)

    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_every_module_says_what_it_holds():
    silent = [
        module
        for package in PACKAGES
        for module, tree in modules(package).items()
        if not ast.get_docstring(tree)
    ]

    assert not silent


def test_every_axis_of_a_signature_is_defined():
    defined = set(AXIS.findall(models.__doc__))
    used = {
        axis
        for path in ROOT.glob("models/**/*.py")
        for shape in SHAPE.findall(path.read_text())
        for axis in shape.split()
        if axis.isalpha()
    }

    assert used
    assert used <= defined


def test_every_test_has_its_module():
    for path in ROOT.glob("tests/*/**/test_*.py"):
        module = ROOT / path.relative_to(ROOT / "tests").with_name(path.name[len("test_") :])
        contract = path.stem == f"test_{path.parent.name}" or path.stem == "test_strategies"

        assert module.exists() or contract or path.stem in WHOLE, path


def test_every_module_has_its_test():
    untested = {
        "handful/contract" if module.parent.name == "contract" else str(module)
        for package in PACKAGES
        for path in (ROOT / package).rglob("[!_]*.py")
        if not (
            ROOT / "tests" / (module := path.relative_to(ROOT)).parent / f"test_{path.name}"
        ).exists()
    }

    assert untested == set(TESTED_BY)
    assert all((ROOT / test).exists() for test in TESTED_BY.values())


def test_what_writes_is_tried_again_when_another_transaction_came_between():
    """The threads of webhooks try again by themselves, as jobs do (`through_outages`)."""
    bare = {
        f"{module}.{function.name}"
        for module, tree in modules("app").items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(
            isinstance(node, ast.withitem) and ".writing(" in ast.unparse(node)
            for node in ast.walk(function)
        )
        and "retry_conflicts" not in map(ast.unparse, function.decorator_list)
    }

    contexts = {"app.jobs.job_queue.holding", "app.integrations.label_studio.book._writing"}
    assert bare - contexts <= {f"app.webhooks.delivery.{n}" for n in ("sweep", "_claim", "_send")}


def test_the_map_of_the_documentation_names_every_room():
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    tree = page.partition("```\n")[2].partition("```")[0]
    named, package = set(), ""
    for line in tree.splitlines():
        if line and not line.startswith(" "):
            package = line.partition("/")[0]
        elif package in PACKAGES:
            named.add(f"{package}.{line.split()[0]}")

    rooms = {
        room_of(module)
        for package in PACKAGES
        for module in modules(package)
        if "." in module
        and (package == "app" or (ROOT / room_of(module).replace(".", "/")).is_dir())
    }
    assert named == rooms


def test_nothing_names_the_machine_that_it_was_written_on():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"/(?:work|home|Users)/\w+/")

    places = [
        f"{name}: {match.group()}"
        for name in listed.stdout.splitlines()
        if (ROOT / name).is_file()
        for match in home.finditer((ROOT / name).read_text(errors="ignore"))
    ]

    assert not places
