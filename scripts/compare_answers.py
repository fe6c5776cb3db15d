"""Send a running service about forty requests and compare the answers of two versions of it.

    python -m scripts.compare_answers ask answers.json [--url http://127.0.0.1:8000]
    python -m scripts.compare_answers compare before.json after.json

`ask` sends requests to every endpoint with its main options; the pictures come from `docs/images`. It writes each
answer's status, headers, SHA-256 of the body and of the decoded pixels, and its JSON, to `answers.json`, and the
pixels to `answers.npz` beside it. `compare` prints each difference in one line, with the largest difference of a pixel
value, and exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

IMAGES = Path(__file__).resolve().parent.parent / "docs/images"
HEADERS = ("Content-Type", "X-Model", "X-Applied", "Content-Disposition", "Link", "Vary")
# Members of JSON answers that differ from run to run.
VARYING = {"id", "instance", "links", "request_id", "timing", "created", "started", "finished", "expires", "device"}
TIMEOUT_S = 900.0


class NoAnswer(RuntimeError):
    """The service cannot be reached, or a job does not end."""


@dataclass(frozen=True)
class Question:
    """One request: a form with files to POST, or a GET where there are no files."""

    path: str
    files: Mapping[str, str] = field(default_factory=dict)  # form field -> name in docs/images or GENERATED
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def _with_alpha_16() -> bytes:
    """Return a PNG with 16 bit a channel and alpha: a small photograph, a quarter of it transparent."""
    pixels = cv2.imread(str(IMAGES / "coffee-before.png"), cv2.IMREAD_COLOR)
    assert pixels is not None
    alpha = np.full(pixels.shape[:2], 65535, np.uint16)
    alpha[:32, :32] = 0
    wide = pixels.astype(np.uint16) * 257
    ramp = np.arange(wide.shape[1], dtype=np.uint16)[None, :, None] % 200
    return _png(np.dstack([np.minimum(wide, 65000) + ramp, alpha]))


def _gray() -> bytes:
    """Return a gray PNG whose sides are no multiple of anything."""
    pixels = cv2.imread(str(IMAGES / "chelsea-before.png"), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return _png(pixels[:201, :117])


def _png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


GENERATED: Mapping[str, Callable[[], bytes]] = {"alpha-16.png": _with_alpha_16, "gray.png": _gray}
NOISY = {"image": "astronaut-before.png"}
SMALL = {"image": "coffee-before.png"}
PORTRAIT = {"image": "portrait.jpg"}
SCRATCHED = {"image": "scratched-before.png", "mask": "scratched-mask.png"}
DIGIT = {"image": "digit.png", "mask": "digit-mask.png"}
CAT = {"image": "chelsea-clean.png"}

QUESTIONS: Mapping[str, Question] = {
    "denoise": Question("/denoise", NOISY),
    "denoise, strength, preserve, WebP": Question(
        "/denoise", NOISY, {"strength": "0.3", "preserve": "0.25", "format": "webp", "lossless": "true"}
    ),
    "denoise, gray": Question("/denoise", {"image": "gray.png"}),
    "denoise, 16 bit with alpha": Question("/denoise", {"image": "alpha-16.png"}, {"strength": "0.2"}),
    "denoise, digits": Question("/denoise", {"image": "digit.png"}, {"model": "digits"}),
    "superres, 2": Question("/superres", SMALL),
    "superres, 3": Question("/superres", SMALL, {"scale": "3"}),
    "superres, 4, JPEG": Question("/superres", SMALL, {"scale": "4", "format": "jpeg", "quality": "80"}),
    "superres, 16 bit with alpha": Question("/superres", {"image": "alpha-16.png"}),
    "segment, street": Question("/segment", CAT, {"model": "street"}),
    "segment, street, overlay": Question("/segment", PORTRAIT, {"model": "street", "output": "overlay"}),
    "segment, person, cutout": Question("/segment", PORTRAIT, {"model": "person", "output": "cutout"}),
    "segment, person, threshold": Question("/segment", PORTRAIT, {"model": "person", "threshold": "0.8"}),
    "segment, person, background": Question(
        "/segment",
        {**PORTRAIT, "background_image": "chelsea-clean.png"},
        {"model": "person", "output": "cutout", "format": "tiff"},
    ),
    "segment, person, table": Question("/segment", PORTRAIT, {"model": "person", "output": "json"}),
    "segment, voc": Question("/segment", CAT, {"model": "voc", "classes": "cat,dog,person"}),
    "segment, voc, table": Question("/segment", CAT, {"model": "voc", "output": "json"}),
    "segment, road": Question("/segment", CAT, {"model": "road", "output": "overlay", "opacity": "0.3"}),
    "inpaint": Question("/inpaint", SCRATCHED),
    "inpaint, neural, dilate, feather": Question(
        "/inpaint", SCRATCHED, {"method": "neural", "dilate": "2", "feather": "3"}
    ),
    "inpaint, telea": Question("/inpaint", SCRATCHED, {"method": "telea", "radius": "5"}),
    "inpaint, ns": Question("/inpaint", SCRATCHED, {"method": "ns"}),
    "inpaint, biharmonic": Question("/inpaint", SCRATCHED, {"method": "biharmonic"}),
    "inpaint, dcgan": Question("/inpaint", DIGIT, {"method": "dcgan"}),
    "inpaint, alpha": Question("/inpaint", {"image": "alpha-16.png"}, {"mask_from": "alpha"}),
    "stylize, preset": Question("/stylize", CAT, {"style": "impression-sunrise"}),
    "stylize, preset, strength": Question("/stylize", CAT, {"style": "starry-night", "strength": "0.5"}),
    "stylize, style_image": Question(
        "/stylize", {**CAT, "style_image": "coffee-clean.png"}, {"strength": "0.8", "preserve_color": "true"}
    ),
    "envelope": Question("/denoise", SMALL, {}, {"Accept": "application/json"}),
    "job": Question("/superres", SMALL, {"scale": "4"}, {"Prefer": "respond-async"}),
    "job, envelope": Question("/denoise", SMALL, {}, {"Prefer": "respond-async", "Accept": "application/json"}),
    "idempotency key": Question("/denoise", SMALL, {}, {"Idempotency-Key": uuid.uuid4().hex}),
    "problem, no picture": Question("/denoise", {"image": "../jobs.md"}),
    "problem, unknown model": Question("/denoise", SMALL, {"model": "nothing"}),
    "problem, unknown field": Question("/superres", SMALL, {"scales": "2"}),
    "problem, value out of range": Question("/denoise", SMALL, {"strength": "2"}),
    "problem, mask of another size": Question("/inpaint", {**SMALL, "mask": "scratched-mask.png"}),
    "problem, threshold with classes": Question("/segment", CAT, {"model": "street", "threshold": "0.8"}),
    "problem, not acceptable": Question("/denoise", SMALL, {}, {"Accept": "text/html"}),
    "models": Question("/models"),
    "card": Question("/models/denoise/photo"),
    "styles": Question("/styles"),
    "preview": Question("/styles/starry-night.webp"),
}


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer: facts for the JSON file, and the decoded pixels where it is a picture."""

    facts: Mapping[str, Any]
    pixels: np.ndarray | None = None


def ask(client: httpx.Client, question: Question) -> Answer:
    """Send `question`, wait for its job if it becomes one, and return the answer. Raises NoAnswer."""
    try:
        if not question.files:
            return describe(client.get(question.path, headers=question.headers))
        files = {name: (Path(file).name, _content(file)) for name, file in question.files.items()}
        response = client.post(question.path, files=files, data=dict(question.fields), headers=question.headers)
        if response.status_code == 202:
            response = _job_result(client, response.json()["id"])
        return describe(response)
    except httpx.TransportError as error:
        raise NoAnswer(
            f"cannot connect to {client.base_url}: {error or type(error).__name__}; start the service or check --url"
        ) from None


def _content(name: str) -> bytes:
    return GENERATED[name]() if name in GENERATED else (IMAGES / name).read_bytes()


def _job_result(client: httpx.Client, id: str) -> httpx.Response:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if client.get(f"/jobs/{id}").json()["state"] not in ("queued", "running"):
            return client.get(f"/jobs/{id}/result")
        time.sleep(0.2)
    raise NoAnswer(f"Job {id} did not finish within {TIMEOUT_S:g} s.")


def describe(response: httpx.Response) -> Answer:
    """Return the facts and the pixels of `response`. A picture in an envelope counts as a picture."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    facts: dict[str, Any] = {"status": response.status_code}
    facts["headers"] = {name: response.headers[name] for name in HEADERS if name in response.headers}
    if not kind.startswith("image/"):
        if not kind.endswith("json"):
            return Answer(facts | {"body": _sha256(response.content)})
        content = response.json()
        body = base64.b64decode(content.pop("image", "")) if isinstance(content, dict) else b""
        facts["json"] = _steady(content)
        if not body:
            return Answer(facts)
    else:
        body = response.content
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    facts["body"] = _sha256(body)
    if pixels is None:
        return Answer(facts)
    facts |= {"pixels": _sha256(pixels.tobytes()), "shape": list(pixels.shape), "dtype": str(pixels.dtype)}
    return Answer(facts, pixels)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _steady(content: Any) -> Any:
    """Return JSON `content` without the members that differ from run to run."""
    if isinstance(content, dict):
        return {key: _steady(value) for key, value in content.items() if key not in VARYING}
    return [_steady(value) for value in content] if isinstance(content, list) else content


def save(answers: Mapping[str, Answer], path: Path) -> None:
    """Write `answers` to `path` and their pixels to a `.npz` file beside it."""
    path.write_text(json.dumps({name: answer.facts for name, answer in answers.items()}, indent=1) + "\n", "utf-8")
    pixels = {name: answer.pixels for name, answer in answers.items() if answer.pixels is not None}
    np.savez_compressed(path.with_suffix(".npz"), **pixels)  # type: ignore[arg-type]


def read(path: Path) -> dict[str, Answer]:
    """Return the answers that `save` wrote to `path`."""
    facts = json.loads(path.read_text("utf-8"))
    with np.load(path.with_suffix(".npz")) as pixels:
        return {name: Answer(kept, pixels.get(name)) for name, kept in facts.items()}


def differences(before: Mapping[str, Answer], after: Mapping[str, Answer]) -> Iterator[str]:
    """Yield a line for each difference between two sets of answers."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name}: only in the {'second' if name in after else 'first'} file"
            continue
        old, new = before[name], after[name]
        if old.facts.get("pixels") != new.facts.get("pixels"):
            yield f"{name}: pixels: {_pixel_difference(old.pixels, new.pixels)}"
        for place, first, second in _unequal(old.facts, new.facts):
            if place not in ("pixels", "shape", "dtype"):
                yield f"{name}: {place}: {_short(first)} -> {_short(second)}"


def _pixel_difference(old: np.ndarray | None, new: np.ndarray | None) -> str:
    if old is None or new is None:
        return f"{'none' if old is None else 'a picture'} -> {'none' if new is None else 'a picture'}"
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.shape} {old.dtype} -> {new.shape} {new.dtype}"
    apart = np.abs(old.astype(np.int64) - new.astype(np.int64))
    return f"at most {apart.max()} apart, in {np.count_nonzero(apart) / apart.size:.3%} of the values"


def _unequal(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two JSON values differ: the path to the member and its two values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _unequal(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _unequal(*pair, f"{place}[{index}]")
    elif old != new:
        yield place, old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask", help="send the requests to a running service")
    asking.add_argument("file", type=Path, help="file to write the answers to")
    asking.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service (default: %(default)s)")
    comparing = commands.add_parser("compare", help="compare two files of answers")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        found = list(differences(read(arguments.before), read(arguments.after)))
        print("\n".join(found) or f"No difference in {len(read(arguments.before))} answers.")
        return int(bool(found))
    answers = {}
    try:
        with httpx.Client(base_url=arguments.url, timeout=TIMEOUT_S) as client:
            for name, question in QUESTIONS.items():
                answers[name] = ask(client, question)
                print(answers[name].facts["status"], name, flush=True)
    except NoAnswer as error:
        raise SystemExit(str(error)) from None
    save(answers, arguments.file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
