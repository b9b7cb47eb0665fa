"""Measuring a machine."""

import io
import re

import pytest
from rich.console import Console

from app.cli import benchmark
from app.settings import Settings


@pytest.fixture
def small(tmp_path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", encoder="conv4:8", runtime="pytorch", max_batch=4, device="cpu"
    )


def test_it_tells_the_ceiling_and_where_the_time_goes(small, tmp_path, png):
    for n in range(24):
        (tmp_path / f"{n}.png").write_bytes(png("red", n))
    said = io.StringIO()

    benchmark.run(small, tmp_path, 0.1, Console(file=said, width=200))

    text = said.getvalue()
    assert "conv4:8 with pytorch on cpu" in text
    assert "24 photos" in text
    rates = dict(re.findall(r"^(\w[^\n]*?)  +(\d+) +\d+\.\d\d", text, re.MULTILINE))
    assert {"decode, 1 thread", "forward, 4 at a time", "both at once, no service"} <= set(rates)
    assert all(int(rate) > 0 for rate in rates.values())
    assert re.search(r"service, 16 photos a request .* \d+ %", text)
    spent = re.search(r"^1 photo a request((?: +\d+\.\d\d){5})", text, re.MULTILINE)
    assert min(float(ms) for ms in spent[1].split()[1:4]) > 0  # decode, queue, forward
    assert not (tmp_path / "data").exists()  # nothing of the user's is touched


def test_a_folder_without_images_is_refused(small, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")

    with pytest.raises(benchmark.NoPhotos, match=r"has no images \(.*\.jpg"):
        benchmark.run(small, tmp_path, 0.1, Console(file=io.StringIO()))


def test_a_service_that_does_not_start_is_told(small, tmp_path, png):
    broken = small.model_copy(update={"encoder": "conv4:nonsense"})

    with (
        pytest.raises(benchmark.ServiceDidNotStart, match="handful serve"),
        benchmark._service(broken, tmp_path),
    ):
        pass
