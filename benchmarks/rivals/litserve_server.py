"""denoise/photo on LitServe, as its users set it up: `python -m benchmarks.rivals.litserve_server --help`.

A request is what LitServe batches, so a large picture is one of its batch and its tiles are a loop in `predict`.
Pictures come in base64 in JSON, as its documentation shows: a queue, which takes no file, brings them to a worker.
"""

import base64
import os
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.rivals.denoiser import Denoiser, Pixels, decode, encode, options, place


class Denoising(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, denoises a batch of pictures, encodes."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.005 if batch > 1 else 0.0)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._denoiser = Denoiser(self._folder, self._threads)

    def decode_request(self, request: Request) -> Pixels:  # an annotation that LitServe reads: what comes is the JSON
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, pictures: Any) -> Any:
        if not isinstance(pictures, list):
            return self._denoised([pictures])[0]
        return self._denoised(pictures)

    def unbatch(self, output: list[Pixels]) -> list[Pixels]:
        return output

    def encode_response(self, output: Pixels) -> Response:
        return Response(encode(output), media_type="image/jpeg")

    def _denoised(self, pictures: list[Pixels]) -> list[Pixels]:
        results = [np.empty_like(picture) for picture in pictures]
        tiles = [(at, tile) for at, picture in enumerate(pictures) for tile in self._denoiser.tiles(picture)]
        size = max(1, len(pictures))
        for begin in range(0, len(tiles), size):
            some = tiles[begin : begin + size]
            for (at, (where, inner, _)), result in zip(some, self._denoiser.run([t[2] for _, t in some]), strict=True):
                place(results[at], where, inner, result)
        return results


def main() -> None:
    wish = options(__doc__)
    threads = max(1, len(os.sched_getaffinity(0)) // wish.workers)
    api = Denoising(wish.folder, threads, wish.batch)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=wish.workers, timeout=False)
    server.run(host="127.0.0.1", port=wish.port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
