"""What segmentation recipes share: a loss that ignores void, and figures that are those of known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.packs import Packs, WrongPack
from training.data.scenes import VOID, Scene

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

COLORS = ((0, "dark", (0, 0, 0)), (1, "red", (255, 0, 0)), (2, "green", (0, 255, 0)))


def knowing(certainty: float = 1.0) -> Any:
    """Return a network that sees the classes of `pictures`, with `certainty`."""
    import keras
    from keras import ops

    image = keras.Input((None, None, 3), name="image")
    red, green = image[..., :1], image[..., 1:2]
    exact = ops.concatenate([1 - red - green, red, green], axis=-1)
    found = certainty * exact + (1 - certainty) / 3
    return keras.Model({"image": image}, {"probabilities": found})


def batch(labels: np.ndarray) -> dict[str, np.ndarray]:
    table = np.zeros((256, 3), np.uint8)
    table[1], table[2] = (255, 0, 0), (0, 255, 0)
    return {"image": table[labels], "labels": labels}


def loss(network: Any, given: dict[str, np.ndarray], **options: Any) -> float:
    from training.segmentation import cross_entropy

    return float(cross_entropy(network, given, **options))


def test_loss_is_the_cross_entropy_of_what_is_labelled() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (2, 8, 8)).astype(np.uint8)
    assert loss(knowing(), batch(labels)) == pytest.approx(0, abs=1e-5)
    expected = -np.log(0.7 + 0.1) * 128 / 129
    assert loss(knowing(0.7), batch(labels)) == pytest.approx(expected, rel=1e-4)
    wrong = batch(labels)
    wrong["labels"] = np.full_like(labels, VOID)
    assert loss(knowing(0.7), wrong) == 0


def test_quantization_is_calibrated_on_the_pictures_of_a_batch() -> None:
    import keras

    from training.segmentation import SegmentationPart

    given = batch(np.zeros((2, 8, 8), np.uint8) + 1)
    served = SegmentationPart().served_inputs(given, keras.random.SeedGenerator(0))
    np.testing.assert_array_equal(served["image"], given["image"] / np.float32(255))
    assert set(served) == {"image"}


def test_weights_count_classes_more_or_less() -> None:
    labels = np.array([[[0, 0, 0, 1]]], np.uint8)
    given = batch(labels)
    given["image"][0, 0, 3] = 0  # the one red pixel is taken for dark
    weights = np.array([0.5, 2.0, 1.0], np.float32)
    heavy, light = (loss(knowing(0.7), given, weights=w) for w in (weights, weights[::-1].copy()))
    assert heavy > light


def test_class_weights_are_larger_for_what_is_rare() -> None:
    from training.segmentation import class_weights

    labels = np.array([[0] * 90 + [1] * 9 + [2] + [VOID] * 50], np.uint8)
    weights = class_weights([labels], 3)
    assert weights.mean() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]


@pytest.fixture
def pack(tmp_path: Path) -> Packs:
    """A pack of three pictures a split, of sizes that no network takes as they are."""
    for split in ("train", "val", "test"):
        for name in ("images", "labels"):
            (tmp_path / "colors" / split / name).mkdir(parents=True)
        for number in range(3):
            labels = np.random.default_rng(number).integers(0, 3, (5, 7)).astype(np.uint8).repeat(9, 0).repeat(9, 1)
            pixels = batch(labels)["image"]
            if number == 0:
                labels[:9] = VOID
            Image.fromarray(pixels).save(tmp_path / "colors" / split / "images" / f"{number}.png")
            Image.fromarray(labels).save(tmp_path / "colors" / split / "labels" / f"{number}.png")
    return Packs(tmp_path)


def test_figures_of_a_network_that_knows(pack: Packs) -> None:
    from training.segmentation import SegmentationDataset

    dataset = SegmentationDataset("colors", COLORS, size=(32, 32), canonical=((48, 64), (64, 48)), scales=(0.8, 1.2))
    assert (
        dataset.validate(knowing(), dataset.held_out(pack))["iou"] > 85
    )  # edges move by a pixel where a picture is resized
    mean, by_class = dataset.tables(knowing(), pack, "segment_colors")
    assert mean.rows[0][1] == pytest.approx(np.mean([row[1] for row in by_class.rows]))
    assert [row[0] for row in by_class.rows] == ["dark", "red", "green"]
    drawn = dataset.preview_grid(knowing(), dataset.held_out(pack))
    assert drawn.dtype == np.uint8
    made = dataset.batches(pack, 0, 2)(0)
    assert made["image"].shape == (2, 32, 32, 3)
    assert made["labels"].shape == (2, 32, 32)


def test_pictures_as_they_are_where_no_size_is_canonical(pack: Packs) -> None:
    from training.segmentation import SegmentationDataset

    dataset = SegmentationDataset("colors", COLORS, size=(32, 32), canonical=(), scales=(0.8, 1.2))
    assert dataset.probabilities(knowing(), np.zeros((45, 63, 3), np.uint8)).shape == (45, 63, 3)


def test_a_picture_is_labelled_once_by_a_teacher_that_is_sure() -> None:
    from training.recipes.segment_voc import LONG_SIDES, TeacherLabeled

    seen: list[tuple[int, ...]] = []

    def teacher(image: np.ndarray) -> np.ndarray:
        """Sure of class 2 where it is red, of class 0 where it is blue, and of nothing where it is green."""
        seen.append(image.shape)
        cells = image.reshape(image.shape[0] // 16, 16, image.shape[1] // 16, 16, 3).mean(axis=(1, 3))
        return np.stack([20 * cells[..., 2], 0 * cells[..., 0], 20 * cells[..., 0]], axis=-1).astype(np.float32)

    picture = np.zeros((40, 120, 3), np.uint8)
    for third, channel in enumerate((0, 1, 2)):
        picture[:, 40 * third : 40 * third + 40, channel] = 255
    taught = TeacherLabeled([picture], teacher)
    labels = taught[0].labels
    assert taught[0].labels is labels
    assert len(taught) == 1
    assert [max(shape) for shape in seen] == list(LONG_SIDES)
    assert all(shape[0] % 16 == shape[1] % 16 == 0 for shape in seen)
    assert labels.shape == (40, 120)
    for third, label in enumerate((2, VOID, 0)):
        assert (labels[5:-5, 40 * third + 8 : 40 * third + 32] == label).all()
    alone = TeacherLabeled([picture], teacher, only=2)[0].labels
    for third, label in enumerate((1, VOID, 0)):
        assert (alone[5:-5, 40 * third + 8 : 40 * third + 32] == label).all()


def test_views_come_from_each_source_in_turn() -> None:
    from training.data.scenes import Scene
    from training.segmentation import SegmentationDataset, interleave

    dataset = SegmentationDataset("colors", COLORS, (32, 32), (), scales=(1.0, 1.0))
    scenes = [Scene(np.full((40, 40, 3), 100 * i, np.uint8), np.full((40, 40), i, np.uint8)) for i in range(3)]
    make = interleave([dataset.view([scene], seed=0) for scene in scenes], batch=2)
    seen = [int(view[16, 16]) for index in range(3) for view in make(index)["labels"]]
    assert seen == [0, 1, 2, 0, 1, 2]
    first, again = make(1), make(1)
    assert first["image"].shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(first["image"], again["image"])


def test_a_student_learns_only_what_its_teacher_has_not() -> None:
    from training.recipes.segment_voc import StudentPart, VocPart

    learned = {variable.path.split("/")[0] for variable in StudentPart().network().trainable_variables}
    given = {"block_12_project", "aspp0", "image_pooling", "concat_projection", "logits"}
    assert {"aspp1_depthwise", "atrous_projection", "low_2", "decoder_logits"} <= learned
    assert not learned & given
    assert given <= {variable.path.split("/")[0] for variable in VocPart().network().trainable_variables}


def write_people(folder: Path, others: dict[str, int]) -> None:
    """Write a picture of a person in its left half, a scene with VOC's classes, and gray photographs by folder."""
    half, labels = np.zeros((320, 320, 3), np.uint8), np.zeros((320, 320), np.uint8)
    half[:, :160], labels[:, :160], labels[:, 150:170] = 200, 15, VOID
    files = {
        "person/train/images": half,
        "person/train/masks": np.where(half > 0, 255, 0).astype(np.uint8),
        "voc/train/images": half,
        "voc/train/labels": labels,
        **{other: np.full((320, 320, 3), value, np.uint8) for other, value in others.items()},
    }
    for place, pixels in files.items():
        (folder / place).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / place / "0.png")


def say_everywhere(number: int) -> Any:
    """Return what loads a teacher that gives every pixel the class `number`."""

    def load(packs: Packs) -> Any:
        return lambda image: (
            np.eye(21, dtype=np.float32)[np.full((image.shape[0] // 16, image.shape[1] // 16), number)] * 9
        )

    return load


def test_people_before_photographs_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.recipes import segment_person

    write_people(tmp_path, dict.fromkeys(segment_person.OTHERS, 60))
    monkeypatch.setattr(segment_person, "load_teacher", say_everywhere(0))
    batch = segment_person.PersonPart().batches(Packs(tmp_path), seed=0, batch=8)(0)
    for number in (0, 1, 3, 4, 6):  # people, as they are
        assert set(np.unique(batch["opacity"][number])) >= {0, 255}
    assert not batch["opacity"][5].any()  # nobody
    for number in (2, 7):
        picture, opacity = batch["image"][number].mean(axis=-1), batch["opacity"][number]
        assert {0, 255} <= set(np.unique(opacity))
        # In front the light of the person, behind the gray of the photograph.
        assert np.median(picture[opacity == 255]) > np.median(picture[opacity == 0]) + 50


def test_photographs_that_all_show_people_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.recipes import segment_person

    write_people(tmp_path, dict.fromkeys(segment_person.OTHERS, 60))
    monkeypatch.setattr(segment_person, "load_teacher", say_everywhere(segment_person.PERSON))
    make = segment_person.PersonPart().batches(Packs(tmp_path), seed=0, batch=8)
    with pytest.raises(WrongPack, match="There are people in every photograph"):
        make(0)


def test_pixels_without_a_label_get_the_nearest() -> None:
    from training.recipes.segment_person import PERSON, as_cutting

    labels = np.full((4, 12), 7, np.uint8)
    labels[:, :6], labels[:, 4:8] = PERSON, VOID
    opacity = as_cutting(Scene(np.zeros((4, 12, 3), np.uint8), labels)).opacity
    assert (opacity == np.where(np.arange(12) < 6, 255, 0)).all()
