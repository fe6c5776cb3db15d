"""A running service, as the evaluation sees it: pictures in, pictures out, over HTTP."""

from __future__ import annotations

import http.client
import io
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping

import numpy as np
from PIL import Image

SECONDS = 600


class ServiceProblem(RuntimeError):
    """An answer that is no picture; the message is the service's own."""


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

    def inpaint(self, picture: np.ndarray, missing: np.ndarray, method: str, model: str = "") -> np.ndarray:
        """Return `picture`, uint8 (height, width[, 3]), with what is `missing`, bool (height, width), filled."""
        fields = {"method": method, "model": model}
        found = self._post("inpaint", picture, fields, mask=missing.astype(np.uint8) * 255)
        return np.asarray(found.convert("RGB" if picture.ndim == 3 else "L"))

    def stylize(self, picture: np.ndarray, style: np.ndarray) -> np.ndarray:
        """Return `picture` in the manner of `style`, both uint8 (height, width, 3)."""
        return np.asarray(self._post("stylize", picture, {}, style_image=style).convert("RGB"))

    def _post(self, path: str, picture: np.ndarray, fields: Mapping[str, object], **others: np.ndarray) -> Image.Image:
        boundary = uuid.uuid4().hex
        start = f'--{boundary}\r\nContent-Disposition: form-data; name="{{}}"{{}}\r\n\r\n'
        body = b"".join(
            (start.format(name, "") + f"{value}\r\n").encode() for name, value in ({**fields, "format": "png"}).items()
        )
        for name, pixels in {"image": picture, **others}.items():
            body += start.format(name, '; filename="picture.png"\r\nContent-Type: image/png').encode()
            body += _png(pixels) + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        try:
            request = urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": kind})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return Image.open(io.BytesIO(answer.read()))
        except urllib.error.HTTPError as error:
            raise ServiceProblem(f"{self.url}/{path} answers {error.code}: {_detail(error.read())}") from None
        except urllib.error.URLError as error:
            raise ServiceProblem(f"{self.url} cannot be reached: {error.reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # no address, no service, or it went away
            raise ServiceProblem(f"{self.url}/{path} gives no picture: {error}") from None


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "no problem document"
