"""How much memory there is."""

import pytest
import torch

from models.training import memory
from models.training.memory import memory_of

CPU = torch.device("cpu")
GIB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Files as a system with 8 GiB has them."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemTotal:       {8 * GIB // 1024} kB\nMemFree:   12 kB\n")
    return write


def test_a_machine_says_how_much_it_has(system):
    assert memory_of(CPU) == 8 * GIB


def test_a_container_has_what_it_is_given(system):
    system("proc/self/cgroup", "0::/jobs/one\n")
    system("cgroup/jobs/memory.max", f"{2 * GIB}\n")
    system("cgroup/jobs/one/memory.max", "max\n")

    assert memory_of(CPU) == 2 * GIB


def test_a_container_of_the_first_version_has_too(system):
    system("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/box\n0::/\n")
    system("cgroup/memory/box/memory.limit_in_bytes", f"{3 * GIB}\n")
    system("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")

    assert memory_of(CPU) == 3 * GIB


def test_a_container_that_sees_itself_as_the_root_has_too(system):
    system("proc/self/cgroup", "0::/\n")
    system("cgroup/memory.max", f"{GIB}\n")

    assert memory_of(CPU) == GIB


def test_where_nothing_says_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)

    assert memory_of(CPU) is None


@pytest.mark.cuda
def test_a_graphics_card_has_its_own():
    assert memory_of(torch.device("cuda", 0)) == torch.cuda.mem_get_info(0)[1]
