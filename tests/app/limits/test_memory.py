from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from app.limits.memory import read_memory_limit, read_proportional_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_without_a_limit_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert read_memory_limit(tmp_path) == MACHINE
    write(tmp_path, "proc/self/cgroup", "0::/user.slice\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/memory.max", "max\n")
    assert read_memory_limit(tmp_path) == MACHINE


@pytest.mark.parametrize("limited", ["", "system.slice/", "system.slice/restore.service/"])
def test_the_smallest_limit_of_the_group_and_those_above_it_applies(tmp_path: Path, limited: str) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/system.slice/restore.service\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/restore.service/memory.max", "9000000\n")
    write(tmp_path, f"sys/fs/cgroup/{limited}memory.max", "1048576\n")
    assert read_memory_limit(tmp_path) == 1048576


def test_control_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/docker/a\n")
    # In a container the path is that of the host, and the container's own group is mounted at the top.
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n")
    assert read_memory_limit(tmp_path) == 2097152
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # no limit
    assert read_memory_limit(tmp_path) == MACHINE


def test_memory_of_another_process(tmp_path: Path) -> None:
    write(
        tmp_path, "proc/7/smaps_rollup", "0-1 ---p 0 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 3 kB\n"
    )
    assert read_proportional_memory(7, tmp_path) == 1024 * 1024
    assert read_proportional_memory(8, tmp_path) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says")
def test_memory_of_this_process() -> None:
    assert 0 < read_proportional_memory(os.getpid()) < MACHINE
