"""Pictures with random damage, sent to the service: it answers each, and no process grows.

`make test` sends 300, `make test-all` 20,000; the seed is fixed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.app.api.service import Service, serving
from tests.app.imaging.mutations import damage, make_seeds

pytestmark = pytest.mark.integration

SEED = 21_026
WARM_UP = 0.25
"""Share of the pictures after which memory is read first: caches and pools are filled by then."""
MAX_GROWTH_MIB = 64


def read_memory(service: Service) -> float:
    """Return what the service and its decoder processes hold, in MiB, without what they share."""
    pool = service.app.state.decoders
    pids = [os.getpid(), *([pool.server_pid, *pool.pids] if hasattr(pool, "pids") else [])]
    return sum(_read_private(pid) for pid in pids if pid is not None)


def _read_private(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {key.strip(): value for key, _, value in (line.partition(":") for line in lines[1:])}
    return sum(int(sizes[key].split()[0]) for key in ("Private_Clean", "Private_Dirty")) / 1024


def send(service: Service, data: bytes) -> str:
    """Return the slug of the problem with a picture, or `ok`."""
    answer = service.denoise(data, strength=0.5)
    if answer.status_code == 200:
        return "ok"
    assert answer.status_code < 500, answer.text
    return str(answer.json()["type"]).removeprefix("/problems/")


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(6000)])])
def test_damaged_pictures_are_answered_and_memory_does_not_grow(count: int) -> None:
    seeds = make_seeds()
    outcomes: Counter[str] = Counter()
    first = 0.0
    with serving(decoders=2, max_upload_mb=4, max_pixels=300_000, decoder_timeout_s=10) as service:
        for index in range(count):
            chance = random.Random(SEED + index)
            try:
                outcomes[send(service, damage(chance.choice(seeds), chance))] += 1
            except (AssertionError, httpx.HTTPError) as error:
                raise AssertionError(f"picture {index} (seed {SEED + index}): {error!r}") from error
            if index == int(count * WARM_UP):
                first = read_memory(service)
        growth = read_memory(service) - first
        assert service.denoise().status_code == 200
        assert service.pipeline.budget.used == 0
    print(count, dict(outcomes), f"{growth:+.0f} MiB")
    assert growth < MAX_GROWTH_MIB
    assert min(outcomes["ok"], outcomes["broken-image"]) > count / 20, outcomes
