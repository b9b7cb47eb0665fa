"""What every runtime promises, and how one is chosen."""

import copy
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.efficientnet_lite import EfficientNetLite
from models.encoders.architectures.timm import Timm
from models.encoders.architectures.vit import ViT
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.kinds import runtimes
from models.runtimes.selector import RuntimeSelector
from models.runtimes.streams import COMPUTING_NICENESS, compute_alone, speed_of_streams
from models.runtimes.trial import AGREEMENT, agree, samples, speed, try_out

RESOURCES = Resources(threads=1, batch=4)
TWO = Resources(threads=2, batch=8)
ENCODERS = {
    "conv4": Conv4(width=8, image_side=32),
    "resnet18": Timm(model="resnet18"),
    "vit": ViT(width=24, image_side=16, patch=4, depth=2, heads=2),
}


def encoder(name: str = "conv4") -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name].build(pretrained=False).eval()


def keep(told: list):
    """Keeps the trials and lanes of each choice."""
    return lambda trials, lanes: told.append((trials, lanes))


class Reference:
    """As PyTorch computes, perhaps late or wrong, and only some encoders."""

    late_s = 0.0
    wrong = False
    wrong_in_lanes = False
    lost = False
    refuses = False
    in_caller = True
    prepared: list[Encoder]

    def prepare(self, encoder, resources):
        self.prepared.append(encoder)
        if self.refuses:
            raise RuntimeUnavailable("it is out of order")

        def embed(pixels):
            time.sleep(self.late_s)
            embeddings = encoder.embed(pixels)
            if self.lost:
                return embeddings * torch.nan
            wrong = self.wrong or (self.wrong_in_lanes and resources.lanes > 1)
            return embeddings.roll(1, dims=1) if wrong else embeddings

        return embed


@pytest.fixture
def known(monkeypatch):
    """Runtimes of a test's own, by name."""

    def make(**kinds):
        found = {
            name: type(name, (Reference,), {"prepared": [], **options})
            for name, options in kinds.items()
        }
        monkeypatch.setattr("models.runtimes.selector.runtimes", found)
        monkeypatch.setattr("models.runtimes.trial.runtimes", found)
        return found

    return make


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("runtime", runtimes)
def test_a_runtime_embeds_as_pytorch_does_or_says_why_not(runtime, name):
    given = encoder(name)
    try:
        embed = runtimes[runtime]().prepare(given, RESOURCES)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))

    for count in (1, 3, 4, 9):  # one, fewer and more than the largest batch
        pictures = samples(given.preprocessing.crop, count)
        embeddings = embed(pictures)
        assert embeddings.shape == (count, given.embedding_dim)
        assert embeddings.dtype == torch.float32
        assert (embeddings * given.embed(pictures)).sum(dim=1).min() >= AGREEMENT
        assert torch.equal(embeddings, embed(pictures))  # nothing of one batch is in the next


@pytest.mark.parametrize("runtime", runtimes)
def test_lanes_compute_side_by_side_what_one_batch_gives(runtime):
    given = encoder()
    try:
        embed = runtimes[runtime]().prepare(given, Resources(threads=1, batch=4, lanes=3))
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    batches = samples(given.preprocessing.crop, 24).split(2)

    with ThreadPoolExecutor(3, initializer=compute_alone) as threads:
        found = list(threads.map(embed, batches))

    expected = given.embed(torch.cat(batches))
    assert (torch.cat(found) * expected).sum(dim=1).min() >= AGREEMENT


@pytest.fixture
def lane_speeds(monkeypatch):
    """Says how fast lanes are in batches of 1, 4 and 8."""

    def make(*speeds):
        found = dict(zip((1, 4, 8), speeds, strict=True))
        monkeypatch.setattr(
            "models.runtimes.selector.speed_of_streams",
            lambda embed, encoder, size, lanes: found[size],
        )

    return make


def test_lanes_have_the_smallest_batch_that_is_about_the_fastest(known, lane_speeds):
    kinds = known(pytorch={})
    lane_speeds(50.0, 98.0, 100.0)
    told = []
    chooser = RuntimeSelector("pytorch", TWO, keep(told))

    lanes = chooser.prepare(encoder()).lanes

    assert (lanes.number, lanes.batch, lanes.images_per_s) == (3, 4, 98.0)
    assert told[0][1] == lanes
    lane_speeds(100.0, 0.0, 0.0)  # a version of the same architecture is not tried again
    assert chooser.prepare(encoder()).lanes[1:] == (3, 4, 98.0)
    assert len(kinds["pytorch"].prepared) == 4


def test_there_are_no_lanes_where_they_are_slower_or_wrong(known, lane_speeds):
    known(pytorch={}, right={"late_s": 0.001}, wrong_in_lanes={"wrong_in_lanes": True})
    lane_speeds(1.0, 2.0, 3.0)

    assert RuntimeSelector("auto", TWO).prepare(encoder()).lanes is None
    assert RuntimeSelector("right", TWO).prepare(encoder()).lanes is not None
    assert RuntimeSelector("wrong_in_lanes", TWO).prepare(encoder()).lanes is None
    assert RuntimeSelector("right", RESOURCES).prepare(encoder()).lanes is None  # one thread


def test_a_version_without_lanes_makes_others_of_its_kind_have_none(known, lane_speeds):
    known(pytorch={})
    lane_speeds(1.0, 2.0, 3.0)
    chooser = RuntimeSelector("auto", TWO)
    known(pytorch={}, other={"late_s": 0.1})
    assert chooser.prepare(encoder()).lanes is None
    lane_speeds(1e6, 1e6, 1e6)

    assert chooser.prepare(encoder()).lanes is None


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_of_openvino_yield_and_the_one_that_calls_does_not():
    def threads() -> dict[str, list[str]]:
        """What Linux tells of each."""
        tasks = Path("/proc/self/task").iterdir()
        return {t.name: (t / "stat").read_text().rpartition(")")[2].split() for t in tasks}

    given, own = encoder("resnet18"), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    before = threads()

    embed = runtimes["openvino"]().prepare(given, Resources(threads=1, batch=4, lanes=2))
    pictures = samples(given.preprocessing.crop, 2)
    embed(pictures)
    since = {name: int(fields[11]) for name, fields in threads().items()}
    for _ in range(10):
        embed(pictures)

    after = threads()
    spent = {name: int(after[name][11]) - ticks for name, ticks in since.items() if name in after}
    hardest = max(after.keys() - before.keys(), key=lambda name: spent.get(name, 0))
    assert spent[hardest] > spent[str(threading.get_native_id())]  # which does not compute
    assert int(after[hardest][16]) == own + COMPUTING_NICENESS
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_openvino_is_there_on_linux():
    assert not try_out("openvino", encoder(), RESOURCES, timed=False).refusal


def test_the_fastest_that_agrees_is_chosen(known):
    known(
        fast_but_wrong={"wrong": True},
        right={"late_s": 0.001},
        slow={"late_s": 0.02},
        broken={"refuses": True},
        lost={"lost": True},
    )
    told = []

    serving = RuntimeSelector("auto", RESOURCES, keep(told)).prepare(encoder())

    assert serving.runtime == "right"
    ((trials, lanes),) = told
    assert lanes is None
    assert trials[-1].runtime == "right"
    assert set(trials[-1].images_per_s) == {1, 4}
    refusals = {trial.runtime: trial.refusal for trial in trials}
    assert "cosine of 0." in refusals["fast_but_wrong"]
    assert "cosine of nan" in refusals["lost"]
    assert refusals["broken"] == "it is out of order"
    assert not refusals["slow"]


def test_one_architecture_is_tried_once(known):
    kinds = known(pytorch={}, other={"late_s": 0.01})
    chooser = RuntimeSelector("auto", RESOURCES)
    first, second, larger = encoder(), encoder(), Conv4(width=16, image_side=32).build().eval()
    assert not chooser.knows(first)

    assert [chooser.prepare(one).runtime for one in (first, second, second)] == ["pytorch"] * 3

    assert len(kinds["other"].prepared) == 1
    assert len(kinds["pytorch"].prepared) == 3
    assert chooser.knows(second)
    assert not chooser.knows(larger)


@pytest.fixture
def quiet(monkeypatch):
    """Says whether the machine has had something else to do."""
    busy = [False]
    monkeypatch.setattr("models.runtimes.selector.is_busy", lambda: busy[0])
    return busy


def test_what_was_found_holds_after_a_restart(known, lane_speeds, quiet, tmp_path):
    known(pytorch={"late_s": 0.01}, other={})
    lane_speeds(50.0, 1e6, 2e6)
    resources, told = replace(TWO, cache=tmp_path), []
    first = RuntimeSelector("auto", resources).prepare(encoder())
    known(pytorch={}, other={"late_s": 0.01})
    lane_speeds(0.0, 0.0, 0.0)

    again = RuntimeSelector("auto", resources, keep(told)).prepare(encoder())

    assert (first.runtime, first.lanes.batch) == ("other", 8)
    assert (again.runtime, again.lanes[1:]) == ("other", first.lanes[1:])
    pictures = samples(32, 3)
    assert torch.allclose(again.lanes.embed(pictures), encoder().embed(pictures), atol=1e-5)
    assert [trial.runtime for trial in told[0][0]] == ["other"]  # what is chosen is still told
    for changed in (replace(resources, threads=1), replace(resources, batch=1)):
        assert RuntimeSelector("auto", changed).prepare(encoder()).runtime == "pytorch"
    (tmp_path / "other").mkdir()
    elsewhere = replace(resources, cache=tmp_path / "other")
    assert RuntimeSelector("auto", elsewhere).prepare(encoder()).runtime == "pytorch"


@pytest.mark.parametrize("told", ["", "[]", '{"runtime": "gone", "lanes": null}', '{"lanes": 1}'])
def test_what_cannot_be_read_of_earlier_is_measured_anew(known, quiet, tmp_path, told):
    resources = replace(RESOURCES, cache=tmp_path)
    known(pytorch={}, other={"late_s": 0.01})
    RuntimeSelector("auto", resources).prepare(encoder())
    (file,) = tmp_path.glob("*.json")
    file.write_text(told)
    known(pytorch={"late_s": 0.01}, other={})

    assert RuntimeSelector("auto", resources).prepare(encoder()).runtime == "other"


def test_a_trial_beside_other_work_holds_until_the_end_only(known, quiet, tmp_path):
    quiet[0] = True
    known(pytorch={}, other={"late_s": 0.01})
    resources = replace(RESOURCES, cache=tmp_path)

    assert RuntimeSelector("auto", resources).prepare(encoder()).runtime == "pytorch"

    known(pytorch={"late_s": 0.01}, other={})
    assert RuntimeSelector("auto", resources).prepare(encoder()).runtime == "other"


def test_a_version_that_its_runtime_cannot_compute_is_served_by_pytorch(known):
    kinds = known(pytorch={"late_s": 0.02}, other={})
    told = []
    chooser = RuntimeSelector("auto", RESOURCES, keep(told))
    assert chooser.prepare(encoder()).runtime == "other"

    kinds["other"].refuses = True

    assert chooser.prepare(encoder()).runtime == "pytorch"


def test_a_runtime_can_be_asked_for(known):
    known(pytorch={}, other={"late_s": 0.02}, wrong={"wrong": True})

    assert RuntimeSelector("other", RESOURCES).prepare(encoder()).runtime == "other"
    assert RuntimeSelector("wrong", RESOURCES).prepare(encoder()).runtime == "pytorch"
    with pytest.raises(RuntimeUnavailable, match=r"no runtime 'tpu'; known are auto, pytorch, oth"):
        RuntimeSelector("tpu", RESOURCES)


@pytest.mark.slow
def test_the_samples_find_out_eight_bits():
    exact = EfficientNetLite().build().eval()
    rough = copy.deepcopy(exact).bfloat16()

    def embed(pixels):
        with torch.inference_mode():
            return torch.nn.functional.normalize(
                rough.features(pixels.bfloat16() / 255).float(), dim=1
            )

    assert agree(embed, exact) < 0.999
    assert agree(exact.embed, exact) > AGREEMENT


def test_speed_of_lanes_is_that_of_all():
    embed = Reference.prepare(
        type("", (Reference,), {"prepared": [], "late_s": 0.02})(), encoder(), RESOURCES
    )

    assert 4 / 0.2 < speed_of_streams(embed, encoder(), 4, 1) < 4 / 0.02
    assert 4 / 0.02 < speed_of_streams(embed, encoder(), 4, 4) < 4 * 4 / 0.02


def test_speed_is_in_images():
    embed = Reference.prepare(
        type("", (Reference,), {"prepared": [], "late_s": 0.01})(), encoder(), RESOURCES
    )

    assert 4 / 0.2 < speed(embed, encoder(), 4) < 4 / 0.01


@pytest.mark.cuda
def test_cuda_computes_with_graphs_in_half_precision():
    given = EfficientNetLite().build().eval().to("cuda")
    told = []

    serving = RuntimeSelector("auto", Resources(threads=1, batch=32), keep(told)).prepare(given)

    assert serving.runtime == "cuda_graphs"
    assert AGREEMENT <= told[0][0][-1].agreement < 1
    pictures = samples(224, 70)
    agreement = (serving.embed(pictures) * given.embed(pictures)).sum(dim=1)
    assert agreement.min() >= 1 - 2 * (1 - AGREEMENT)  # half of these were not judged before
