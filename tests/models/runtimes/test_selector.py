"""How the runtime of an encoder is chosen."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from models.encoders.architectures.conv4 import Conv4
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.selector import RuntimeSelector, Serving, TrialListener
from models.runtimes.streams import Streams
from models.runtimes.trial import RuntimeTrial, samples
from tests.models.runtimes.reference import RESOURCES, make_encoder, variant

TWO = Resources(threads=2, batch=8)

Choices = list[tuple[Sequence[RuntimeTrial], Streams | None]]


def keep(choices: Choices) -> TrialListener:
    """Keeps the trials and streams of each choice."""
    return lambda trials, streams: choices.append((trials, streams))


def streams_of(serving: Serving) -> Streams:
    assert serving.streams is not None
    return serving.streams


@pytest.fixture
def install(monkeypatch, clock):
    """Runtimes of a test's own, by name."""

    def make(**kinds):
        variants = {name: variant(clock, name, **options) for name, options in kinds.items()}
        monkeypatch.setattr("models.runtimes.selector.runtimes", variants)
        monkeypatch.setattr("models.runtimes.trial.runtimes", variants)
        return variants

    return make


@pytest.fixture
def stream_speeds(monkeypatch):
    """Says how fast streams are in batches of 1, 4 and 8."""

    def make(*speeds):
        by_size = dict(zip((1, 4, 8), speeds, strict=True))
        monkeypatch.setattr(
            "models.runtimes.selector.speed_of_streams",
            lambda embed, encoder, size, streams: by_size[size],
        )

    return make


def test_streams_have_the_smallest_batch_that_is_about_the_fastest(install, stream_speeds):
    kinds = install(pytorch={})
    stream_speeds(50.0, 98.0, 100.0)
    choices: Choices = []
    selector = RuntimeSelector("pytorch", TWO, keep(choices))

    streams = selector.prepare(make_encoder()).streams

    assert (streams.number, streams.batch, streams.images_per_s) == (3, 4, 98.0)
    assert choices[0][1] == streams
    stream_speeds(100.0, 0.0, 0.0)  # a version of the same architecture is not tried again
    assert streams_of(selector.prepare(make_encoder()))[1:] == (3, 4, 98.0)
    assert len(kinds["pytorch"].prepared) == 4


def test_there_are_no_streams_where_they_are_slower_or_wrong(install, stream_speeds):
    install(pytorch={}, right={"late_s": 0.001}, wrong_in_streams={"wrong_in_streams": True})
    stream_speeds(1.0, 2.0, 3.0)

    assert RuntimeSelector("auto", TWO).prepare(make_encoder()).streams is None
    assert RuntimeSelector("right", TWO).prepare(make_encoder()).streams is not None
    assert RuntimeSelector("wrong_in_streams", TWO).prepare(make_encoder()).streams is None
    assert RuntimeSelector("right", RESOURCES).prepare(make_encoder()).streams is None  # one thread


def test_a_version_without_streams_makes_others_of_its_kind_have_none(install, stream_speeds):
    install(pytorch={})
    stream_speeds(1.0, 2.0, 3.0)
    selector = RuntimeSelector("auto", TWO)
    install(pytorch={}, other={"late_s": 0.1})
    assert selector.prepare(make_encoder()).streams is None
    stream_speeds(1e6, 1e6, 1e6)

    assert selector.prepare(make_encoder()).streams is None


def test_the_fastest_that_agrees_is_chosen(install):
    install(
        fast_but_wrong={"wrong": True},
        right={"late_s": 0.001},
        slow={"late_s": 0.02},
        broken={"refuses": True},
        lost={"lost": True},
    )
    choices: Choices = []

    serving = RuntimeSelector("auto", RESOURCES, keep(choices)).prepare(make_encoder())

    assert serving.runtime == "right"
    ((trials, streams),) = choices
    assert streams is None
    assert trials[-1].runtime == "right"
    assert set(trials[-1].images_per_s) == {1, 4}
    refusals = {trial.runtime: trial.refusal for trial in trials}
    assert "cosine of 0." in refusals["fast_but_wrong"]
    assert "cosine of nan" in refusals["lost"]
    assert refusals["broken"] == "it is out of order"
    assert not refusals["slow"]


def test_one_architecture_is_tried_once(install):
    kinds = install(pytorch={}, other={"late_s": 0.01})
    selector = RuntimeSelector("auto", RESOURCES)
    first, second = make_encoder(), make_encoder()
    larger = Conv4(width=16, image_side=32).build().eval()
    assert not selector.knows(first)

    runtimes = [selector.prepare(network).runtime for network in (first, second, second)]

    assert runtimes == ["pytorch"] * 3
    assert len(kinds["other"].prepared) == 1
    assert len(kinds["pytorch"].prepared) == 3
    assert selector.knows(second)
    assert not selector.knows(larger)


@pytest.fixture
def quiet(monkeypatch):
    """Says whether the machine has had something else to do."""
    busy = [False]
    monkeypatch.setattr("models.runtimes.selector.is_busy", lambda: busy[0])
    return busy


def test_what_was_found_holds_after_a_restart(install, stream_speeds, quiet, tmp_path):
    install(pytorch={"late_s": 0.01}, other={})
    stream_speeds(50.0, 1e6, 2e6)
    resources = replace(TWO, cache=tmp_path)
    choices: Choices = []
    first = RuntimeSelector("auto", resources).prepare(make_encoder())
    install(pytorch={}, other={"late_s": 0.01})
    stream_speeds(0.0, 0.0, 0.0)

    later = RuntimeSelector("auto", resources, keep(choices)).prepare(make_encoder())

    assert (first.runtime, first.streams.batch) == ("other", 8)
    assert (later.runtime, streams_of(later)[1:]) == ("other", streams_of(first)[1:])
    pictures = samples(32, 3)
    assert torch.allclose(later.streams.embed(pictures), make_encoder().embed(pictures), atol=1e-5)
    assert [trial.runtime for trial in choices[0][0]] == ["other"]  # what is chosen is still told
    for changed in (replace(resources, threads=1), replace(resources, batch=1)):
        assert RuntimeSelector("auto", changed).prepare(make_encoder()).runtime == "pytorch"
    (tmp_path / "other").mkdir()
    elsewhere = replace(resources, cache=tmp_path / "other")
    assert RuntimeSelector("auto", elsewhere).prepare(make_encoder()).runtime == "pytorch"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"runtime": "gone", "streams": null}', '{"streams": 1}']
)
def test_what_cannot_be_read_of_earlier_is_measured_anew(install, quiet, tmp_path, text):
    resources = replace(RESOURCES, cache=tmp_path)
    install(pytorch={}, other={"late_s": 0.01})
    RuntimeSelector("auto", resources).prepare(make_encoder())
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    install(pytorch={"late_s": 0.01}, other={})

    assert RuntimeSelector("auto", resources).prepare(make_encoder()).runtime == "other"


def test_a_trial_beside_other_work_holds_until_the_end_only(install, quiet, tmp_path):
    quiet[0] = True
    install(pytorch={}, other={"late_s": 0.01})
    resources = replace(RESOURCES, cache=tmp_path)

    assert RuntimeSelector("auto", resources).prepare(make_encoder()).runtime == "pytorch"

    install(pytorch={"late_s": 0.01}, other={})
    assert RuntimeSelector("auto", resources).prepare(make_encoder()).runtime == "other"


def test_a_version_that_its_runtime_cannot_compute_is_served_by_pytorch(install):
    kinds = install(pytorch={"late_s": 0.02}, other={})
    choices: Choices = []
    selector = RuntimeSelector("auto", RESOURCES, keep(choices))
    assert selector.prepare(make_encoder()).runtime == "other"

    kinds["other"].refuses = True

    assert selector.prepare(make_encoder()).runtime == "pytorch"


def test_a_runtime_can_be_asked_for(install):
    install(pytorch={}, other={"late_s": 0.02}, wrong={"wrong": True})

    assert RuntimeSelector("other", RESOURCES).prepare(make_encoder()).runtime == "other"
    assert RuntimeSelector("wrong", RESOURCES).prepare(make_encoder()).runtime == "pytorch"
    with pytest.raises(RuntimeUnavailable, match=r"no runtime 'tpu'; known are auto, pytorch, oth"):
        RuntimeSelector("tpu", RESOURCES)
