"""Many callers at once."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from tests.app.api.service import Service, file, opened, serving


@pytest.mark.integration
def test_a_hundred_concurrent_pictures_each_come_back_as_themselves() -> None:
    random = np.random.default_rng(11)
    sizes = [(32, 32), (40, 24), (96, 64), (17, 130)]
    pictures = [random.integers(0, 256, (*sizes[i % 4], 3), dtype=np.uint8) for i in range(100)]

    async def send(client: httpx.AsyncClient, index: int) -> tuple[int, bytes]:
        path, scale = ("/denoise", 1) if index % 3 else ("/superres", 2)
        fields = {"scale": "2"} if scale == 2 else {"strength": f"{index / 100}"}
        answer = await client.post(path, files={"image": file(pictures[index])}, data=fields)
        assert answer.status_code == 200, answer.text
        return scale, answer.content

    async def all_at_once(running: Service) -> list[tuple[int, bytes]]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=running.client.base_url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(send(client, index) for index in range(100)))

    # Little room for decoded pictures, so that many of them have to wait for their turn.
    with serving(decoded_megapixels=0.05) as running:
        for index, (scale, content) in enumerate(asyncio.run(all_at_once(running))):
            expected = pictures[index].repeat(scale, axis=0).repeat(scale, axis=1)
            np.testing.assert_array_equal(opened(content), expected)
        assert running.pipeline.budget.used < 1e-9
        assert running.pipeline.budget.waiting == 0
