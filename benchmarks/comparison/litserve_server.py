"""denoise/photo on LitServe, as its users set it up: `python -m benchmarks.comparison.litserve_server --help`.

LitServe batches requests, so a large picture is one item of a batch and its tiles are a loop in `predict`. Pictures are
sent as base64 in JSON, as in its documentation: requests reach the workers through a queue that cannot carry files.
"""

import base64
import os
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.comparison.denoiser import Denoiser, Pixels, decode, encode, parse_options, paste


class Denoising(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, denoises a batch of pictures, encodes."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.005 if batch > 1 else 0.0)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._denoiser = Denoiser(self._folder, self._threads)

    def decode_request(self, request: Request) -> Pixels:  # LitServe requires this annotation; `request` is JSON
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, pictures: Any) -> Any:
        if not isinstance(pictures, list):
            return self._denoise([pictures])[0]
        return self._denoise(pictures)

    def unbatch(self, output: list[Pixels]) -> list[Pixels]:
        return output

    def encode_response(self, output: Pixels) -> Response:
        return Response(encode(output), media_type="image/jpeg")

    def _denoise(self, pictures: list[Pixels]) -> list[Pixels]:
        results = [np.empty_like(picture) for picture in pictures]
        tiles = [(at, tile) for at, picture in enumerate(pictures) for tile in self._denoiser.split(picture)]
        size = max(1, len(pictures))
        for begin in range(0, len(tiles), size):
            some = tiles[begin : begin + size]
            for (at, (where, inner, _)), result in zip(some, self._denoiser.run([t[2] for _, t in some]), strict=True):
                paste(results[at], where, inner, result)
        return results


def main() -> None:
    options = parse_options(__doc__)
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    api = Denoising(options.folder, threads, options.batch)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=False)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
