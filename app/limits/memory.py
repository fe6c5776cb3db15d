"""How much memory the process may use, by its control group (a container) or its machine, and how much others use."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path


def read_memory_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest limit in bytes that applies to this process, or None where the system does not say.

    Control groups of version 1 and 2 are read, those above the process's own too. `root` is the folder that holds
    `proc` and `sys`.
    """
    limits = _read_cgroup_limits(root)
    with suppress(ValueError, OSError):  # a system without these names
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def read_proportional_memory(pid: int, root: Path = Path("/")) -> int:
    """Return the resident memory of a process in bytes, where what several share is divided; 0 if it has ended."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", (root / f"proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return 0


def _read_cgroup_limits(root: Path) -> list[int]:
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:  # `0::/path` in version 2, `4:memory:/path` in version 1
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                with suppress(OSError, ValueError):  # no such file, or `max`: no limit
                    limits.append(int((folder / name).read_text()))
    return limits
