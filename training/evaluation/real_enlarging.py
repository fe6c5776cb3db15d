"""How real pictures look after they were enlarged four times, in figures: noise, edges, and the distance of features.

And contact sheets, to be looked at pixel by pixel before a model is published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from keras import ops

from training.architectures import srvgg
from training.data.imresize import imresize
from training.data.packs import Packs
from training.data.worn import wear
from training.evaluation import photos, previews
from training.evaluation.denoising_previews import draw_small_print
from training.evaluation.metrics import psnr
from training.evaluation.perception import FeatureDistance
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress
from training.weights import take

if TYPE_CHECKING:
    import keras

SCALE = 4
TEACHER = "superres/realesr_general_x4v3.npz"
COMMAND = "python -m training evaluate superres_real"
SIDE = 256
"""Pixels a side of the parts of large pictures that are measured."""

PLACE, FLAT = 16, 2.0
"""Places are squares of so many pixels; those of an original are flat where its fine bands have less than FLAT levels
of 255."""

Enlarge = Callable[[np.ndarray], np.ndarray]
"""uint8 (h, w, 3) -> uint8 (4*h, 4*w, 3)."""


def measure(networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
    """Return the tables of worn photographs and of real pictures, beside bicubic and the network it started from."""
    methods = _methods(networks, packs)
    return [_measure_worn(methods, packs, COMMAND), _measure_real(methods, packs, COMMAND)]


def measure_service(url: str, packs: Packs) -> list[ResultTable]:
    """Return the same tables of the service at `url`, by the models it may choose. Raises ServiceProblem."""
    service, command = Service(url), f"{COMMAND} --url {url}"

    def enlarge(model: str, small: np.ndarray) -> np.ndarray:
        return service.superres(small, model, SCALE)

    methods: dict[str, Enlarge] = {"bicubic": _enlarge_bicubically}
    methods |= {f"superres/{name}": partial(enlarge, name) for name in ("photo", "real")}
    return [_measure_worn(methods, packs, command), _measure_real(methods, packs, command)]


def _methods(networks: Mapping[str, Any], packs: Packs) -> dict[str, Enlarge]:
    start = srvgg.build()
    with np.load(packs.weights(TEACHER)) as stored:
        take(start, srvgg.convert_weights(dict(stored)))
    return {
        "bicubic": _enlarge_bicubically,
        "Real-ESRGAN (general, small)": partial(run, start),
        "superres/real": partial(run, networks["x4"]),
    }


def run(network: keras.Model, small: np.ndarray) -> np.ndarray:
    """Return uint8 `small` enlarged by `network`."""
    found = network({"image": small[None] / np.float32(255)})["image"]
    return photos.eight_bit(ops.convert_to_numpy(found)[0] * 255)


def _enlarge_bicubically(small: np.ndarray) -> np.ndarray:
    return photos.eight_bit(imresize(small, SCALE * small.shape[0], SCALE * small.shape[1]))


def _measure_worn(methods: Mapping[str, Enlarge], packs: Packs, command: str) -> ResultTable:
    pairs = load_worn(packs)
    cleans = [clean for _, clean in pairs]
    plain = [_enlarge_bicubically(small) for small, _ in pairs]
    distance = distance_to(packs)
    rows: list[list[str | float]] = []

    def add(name: str, larges: list[np.ndarray], error: str | float) -> None:
        results = list(zip(larges, cleans, strict=True))
        rows.append(
            [
                name,
                float(np.mean([distance(large, clean) for large, clean in results])),
                error,
                flat_noise(larges, cleans) / flat_noise(plain, cleans),
                _ratio(sharpness, larges, plain),
                float(np.exp(np.mean([np.log(detail_energy(large, clean)) for large, clean in results]))),
            ]
        )

    for name, enlarge in methods.items():
        report_progress(f"worn: {name}")
        larges = [enlarge(small) for small, _ in pairs]
        add(name, larges, float(np.mean([psnr(large, clean) for large, clean in zip(larges, cleans, strict=True)])))
    add("the original", cleans, "–")
    columns = ["", "distance of features", "PSNR (dB)", "noise, of bicubic's", "edges, of bicubic's", "detail"]
    note = (
        f"The middle {SIDE}×{SIDE} of Kodak24, worn as in training with seeds of their own. Noise is that of places "
        f"of {PLACE}×{PLACE} pixels where the original has less than {FLAT:g} levels of it, edges are the steepest "
        "ones, detail is the energy of fine detail over that of the original."
    )
    return ResultTable("Worn photographs, ×4", command, columns, rows, note)


def load_worn(packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (small, clean), uint8: the middle of the pictures of Kodak24, worn."""
    pictures = packs.pictures("photos/test/Kodak24")
    found = []
    for number, picture in enumerate(pictures):
        top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
        clean = picture[top : top + SIDE, left : left + SIDE]
        found.append((wear(clean, SCALE, np.random.default_rng([number, 24])), clean))
    return found


def _measure_real(methods: Mapping[str, Enlarge], packs: Packs, command: str) -> ResultTable:
    pictures = {name: crop_middle(picture, 192) for name, picture in load_real(packs).items()}
    plain = {name: _enlarge_bicubically(small) for name, small in pictures.items()}
    rows: list[list[str | float]] = []
    for method, enlarge in methods.items():
        report_progress(f"real: {method}")
        large = [enlarge(small) for small in pictures.values()]
        rows.append([method, *(_ratio(kind, large, list(plain.values())) for kind in (noise, sharpness))])
    columns = ["", "noise, of bicubic's", "edges, of bicubic's"]
    note = "RMS over the middle of the pictures of `real/superres`. Noise is that of their flattest tenth."
    return ResultTable("Real pictures, ×4", command, columns, rows, note)


def load_real(packs: Packs) -> dict[str, np.ndarray]:
    """Return the real pictures by name, uint8 (height, width, 3)."""
    files = packs.files("real/superres")
    return {file.stem: picture for file, picture in zip(files, packs.pictures("real/superres"), strict=True)}


def crop_middle(picture: np.ndarray, side: int) -> np.ndarray:
    """Return the middle of a picture, at most `side` pixels a side."""
    height, width = (min(side, length) for length in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _ratio(
    kind: Callable[[np.ndarray, np.ndarray], float], found: Sequence[np.ndarray], plain: Sequence[np.ndarray]
) -> float:
    """Return the RMS of `kind` of what was found over that of bicubic enlargement: clean pictures hardly count."""
    pairs = [(kind(one, other), kind(other, other)) for one, other in zip(found, plain, strict=True)]
    ours, theirs = np.sqrt(np.mean(np.square(pairs), axis=0))
    return float(ours / theirs)


def noise(picture: np.ndarray, plain: np.ndarray) -> float:
    """Return the deviation of the fine bands of `picture`, uint8 (H, W, 3), where `plain` is flattest, in a tenth."""
    flat = _steepness(plain, 4.0)
    return float(np.sqrt(np.mean(_fine_energy(picture)[flat <= np.quantile(flat, 0.1)])))


def flat_noise(pictures: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> float:
    """Return the deviation of the fine bands of `pictures`, uint8 (H, W, 3), over all places where `originals` are
    flat.

    What is flat in a spoiled picture may have been grass: there, the original would count as noise.
    """
    energies = np.stack([[_mean_of_places(_fine_energy(one)) for one in pair] for pair in (pictures, originals)])
    return float(np.sqrt(energies[0][energies[1] < FLAT**2].mean()))


def _fine_energy(picture: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(_luma(picture) - cv2.GaussianBlur(_luma(picture), (0, 0), 4.0)))


def _mean_of_places(energy: np.ndarray) -> np.ndarray:
    height, width = (side // PLACE for side in energy.shape)
    return np.asarray(
        cv2.resize(energy[: height * PLACE, : width * PLACE], (width, height), interpolation=cv2.INTER_AREA)
    )


def sharpness(picture: np.ndarray, plain: np.ndarray) -> float:
    """Return the mean slope of `picture` where that of `plain` is steepest, in two of a hundred places."""
    slope = cv2.dilate(_steepness(picture, 0.7), np.ones((5, 5), np.uint8))
    steep = _steepness(plain, 2.0)
    return float(np.mean(slope[steep >= np.quantile(steep, 0.98)]))


def _steepness(picture: np.ndarray, blur: float) -> np.ndarray:
    soft = cv2.GaussianBlur(_luma(picture), (0, 0), blur)
    return np.hypot(cv2.Sobel(soft, -1, 1, 0), cv2.Sobel(soft, -1, 0, 1))


def _luma(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), np.float32)


@lru_cache(maxsize=2)
def _features(root: str) -> FeatureDistance:
    return FeatureDistance(Packs(root))


def distance_to(packs: Packs) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the distance of features of two pictures, uint8 (height, width, 3); the network is loaded once."""
    measured = _features(str(packs.root))
    return lambda found, clean: measured(found, clean, np.ones(clean.shape[:2], bool))


def detail_energy(found: np.ndarray, clean: np.ndarray) -> float:
    """Return the energy of fine detail of `found` over that of `clean`: the geometric mean over places of 16x16."""
    one, other = (_energy(picture) for picture in (found, clean))
    return float(np.exp(np.mean(np.log(one / other))))


def _energy(picture: np.ndarray) -> np.ndarray:
    luma = _luma(picture)
    band = luma - cv2.GaussianBlur(luma, (0, 0), 1.5)
    return _mean_of_places(np.square(band)) + np.float32(1)


def preview_grids(networks: Mapping[str, Any], packs: Packs) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 RGB): bicubic | the network it started from | ours, of real, worn and drawn pictures."""
    methods = _methods(networks, packs)
    pictures = {name: crop_middle(picture, 160) for name, picture in load_real(packs).items()}
    worn = load_worn(packs)
    pictures |= {f"kodak-{number + 1:02}": worn[number][0] for number in (3, 4, 12, 14, 17, 23)}
    text = draw_small_print()
    pictures["print"] = wear(text, 1, np.random.default_rng(4))[:120, :160]
    for name, small in pictures.items():
        yield name, previews.grid([[enlarge(small) / np.float32(255) for enlarge in methods.values()]])
