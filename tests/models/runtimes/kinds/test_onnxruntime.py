"""What ONNX Runtime alone does."""

import sys

import pytest

from models.runtimes import RuntimeUnavailable
from models.runtimes.kinds.onnxruntime import ONNXRuntime
from models.runtimes.trial import AGREEMENT, agree
from tests.models.runtimes.reference import RESOURCES, make_encoder


def test_it_computes_on_the_cpu_only():
    with pytest.raises(RuntimeUnavailable, match="on the CPU only"):
        ONNXRuntime().prepare(make_encoder().to("meta"), RESOURCES)


@pytest.mark.parametrize("library", ["onnxruntime", "onnxscript"])
def test_where_it_is_not_installed_it_says_what_brings_it(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(RuntimeUnavailable, match=r"handful\[onnx\] brings it"):
        ONNXRuntime().prepare(make_encoder(), RESOURCES)


def test_the_network_is_kept_as_one_file_and_none_beside_it(conversions, resources):
    pytest.importorskip("onnxruntime")
    ONNXRuntime().prepare(make_encoder(), resources)

    embed = ONNXRuntime().prepare(make_encoder(), resources)

    assert [file.suffix for file in resources.cache.iterdir()] == [".onnx"]
    assert agree(embed, make_encoder()) >= AGREEMENT
    assert len(conversions) == 1
