"""A client of a running service, for the evaluation: pictures in, pictures out, over HTTP."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import httpx

SECONDS = 600

STYLE_CANVAS = 512
"""The longer side, in pixels, at which the service paints with strokes of size 1."""


class ServiceProblem(RuntimeError):
    """A response that is no picture; the message holds the service's own."""


class Service:
    """The service at `url` (`http://localhost:8000`), asked for PNG both ways, one picture at a time."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def denoise(self, picture: np.ndarray, model: str, strength: float | None) -> np.ndarray:
        """Return uint8 (height, width, 3) restored by `model`; strength 0 to 1, None for `auto`."""
        fields = {"model": model, "strength": "auto" if strength is None else strength}
        return np.asarray(self._post("denoise", picture, fields).convert("RGB"))

    def superres(self, picture: np.ndarray, model: str, scale: int) -> np.ndarray:
        """Return uint8 (height, width, 3) enlarged by `model`."""
        return np.asarray(self._post("superres", picture, {"model": model, "scale": scale}).convert("RGB"))

    def segment(self, picture: np.ndarray, model: str) -> np.ndarray:
        """Return the ids that `model` finds, uint8 (height, width); the foreground is 1."""
        found = self._post("segment", picture, {"model": model, "output": "mask"})
        ids = np.asarray(found)
        return ids if found.mode == "P" else (ids > 127).astype(np.uint8)

    def cut_out(self, picture: np.ndarray, model: str) -> np.ndarray:
        """Return what `model` finds with its opacity, uint8 (height, width, 4)."""
        return np.asarray(self._post("segment", picture, {"model": model, "output": "cutout"}).convert("RGBA"))

    def inpaint(self, picture: np.ndarray, missing: np.ndarray, method: str, model: str = "") -> np.ndarray:
        """Return `picture`, uint8 (height, width[, 3]), with what is `missing`, bool (height, width), filled."""
        fields = {"method": method, "model": model}
        found = self._post("inpaint", picture, fields, mask=missing.astype(np.uint8) * 255)
        return np.asarray(found.convert("RGB" if picture.ndim == 3 else "L"))

    def stylize(self, picture: np.ndarray, style: np.ndarray) -> np.ndarray:
        """Return `picture` in the style of `style`, both uint8 (height, width, 3), painted at its own size.

        That is between 256 and 1024 pixels for the longer side.
        """
        stroke_size = min(2.0, max(0.5, STYLE_CANVAS / max(picture.shape[:2])))
        return np.asarray(
            self._post("stylize", picture, {"stroke_size": stroke_size}, style_image=style).convert("RGB")
        )

    def _post(self, path: str, picture: np.ndarray, fields: Mapping[str, object], **others: np.ndarray) -> Image.Image:
        """Return the picture that the service answers with. Raises ServiceProblem."""
        import httpx  # only measuring through a service needs it

        files = {
            name: ("picture.png", encode_png(pixels), "image/png")
            for name, pixels in {"image": picture, **others}.items()
        }
        data = {name: str(value) for name, value in {**fields, "format": "png"}.items()}
        address = f"{self.url}/{path}"
        try:
            response = httpx.post(address, data=data, files=files, timeout=SECONDS, follow_redirects=True)
            if response.is_error:
                raise ServiceProblem(f"{address} returned {response.status_code}: {_detail(response)}")
            return Image.open(io.BytesIO(response.content))
        except httpx.ConnectError as error:
            raise ServiceProblem(f"cannot connect to {self.url}: {error}; start the service or check --url") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # The address is wrong, the connection was lost, or the response is no picture.
            raise ServiceProblem(f"{address} did not return a picture: {error}") from None


def encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return "no problem document"
