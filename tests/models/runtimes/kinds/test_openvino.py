"""What OpenVINO alone does."""

import os
import sys
import threading
from pathlib import Path

import pytest

from models.encoders.architectures.conv4 import Conv4
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.kinds.openvino import OpenVINO
from models.runtimes.streams import COMPUTING_NICENESS
from models.runtimes.trial import AGREEMENT, agree, samples, try_out
from tests.models.runtimes.reference import RESOURCES, make_encoder


@pytest.mark.usefixtures("conversions")
def test_it_is_there_on_linux():
    assert not try_out("openvino", make_encoder(), RESOURCES, timed=False).refusal


def test_it_computes_on_the_cpu_only():
    with pytest.raises(RuntimeUnavailable, match="on the CPU only"):
        OpenVINO().prepare(make_encoder().to("meta"), RESOURCES)


def test_where_it_is_not_installed_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(RuntimeUnavailable, match="OpenVINO is not installed here"):
        OpenVINO().prepare(make_encoder(), RESOURCES)


def test_weights_that_are_missing_are_converted_anew(conversions, resources):
    OpenVINO().prepare(make_encoder(), resources)
    (file,) = resources.cache.glob("*.bin")
    file.unlink()

    embed = OpenVINO().prepare(make_encoder(), resources)

    assert agree(embed, make_encoder()) >= AGREEMENT
    assert len(conversions) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_its_threads_yield_and_the_one_that_calls_does_not():
    def threads() -> dict[str, list[str]]:
        """What Linux tells of each."""
        tasks = Path("/proc/self/task").iterdir()
        return {t.name: (t / "stat").read_text().rpartition(")")[2].split() for t in tasks}

    caller = threading.get_native_id()
    encoder = Conv4(width=64, image_side=160).build(pretrained=False).eval()
    niceness = os.getpriority(os.PRIO_PROCESS, caller)
    before = threads()

    embed = OpenVINO().prepare(encoder, Resources(threads=1, batch=4, streams=2))
    pictures = samples(encoder.preprocessing.crop, 2)
    embed(pictures)
    since = {name: int(fields[11]) for name, fields in threads().items()}
    for _ in range(10):
        embed(pictures)

    after = threads()
    spent = {name: int(after[name][11]) - ticks for name, ticks in since.items() if name in after}
    hardest = max(after.keys() - before.keys(), key=lambda name: spent.get(name, 0))
    assert spent[hardest] > spent[str(caller)]  # which does not compute
    assert int(after[hardest][16]) == niceness + COMPUTING_NICENESS
    assert os.getpriority(os.PRIO_PROCESS, caller) == niceness
