"""How style is measured and learned: Gram matrices, moments, and a metric that is zero between equal pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG19's shapes, those of its first convolution in 8 bit."""
    from training.architectures.vgg19 import BLOCKS

    random, arrays, before = np.random.default_rng(0), {}, 3
    for block, depth, width in BLOCKS:
        for i in range(1, depth + 1):
            kernel = random.normal(0, np.sqrt(2 / (9 * before)), (3, 3, before, width)).astype(np.float32)
            arrays |= {f"{block}_conv{i}/kernel": kernel, f"{block}_conv{i}/bias": np.zeros(width, np.float32)}
            before = width
    first = arrays.pop("block1_conv1/kernel")
    scale, least = (first.max() - first.min()) / 255, first.min()
    arrays["block1_conv1/kernel/q"] = np.rint((first - least) / scale).astype(np.uint8)
    arrays["block1_conv1/kernel/scale_min"] = np.array([scale, least], np.float64)
    target = tmp_path_factory.mktemp("weights") / "vgg19/vgg19_block1_conv1_to_block5_conv2_u8.npz"
    target.parent.mkdir()
    np.savez(target, **arrays)
    return target


@pytest.fixture(scope="module")
def metric(weights: Path) -> Any:
    from training.architectures import vgg19
    from training.evaluation.stylization import CONTENT, STYLE, PerceptualMetric

    network = vgg19.build(sorted({*CONTENT, *STYLE}), weights)
    return PerceptualMetric(network, dict.fromkeys(CONTENT, 1.0), dict.fromkeys(STYLE, 1.0))


TINT = np.array([0.2, 0.9, 0.5], np.float32)


def texture(seed: int, size: int = 48) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.random((1, size // 4, size // 4, 3)).repeat(4, 1).repeat(4, 2)
    return (0.6 * coarse + 0.4 * random.random((1, size, size, 3))).astype(np.float32)


def test_matching_gram_matrices_minimises_a_maximum_mean_discrepancy() -> None:
    """The squared difference of two Gram matrices is the MMD under the kernel (x·y)² (Li et al. 2017)."""
    from training.architectures.style_optimizer import grams

    random = np.random.default_rng(0)
    one, other = random.normal(size=(1, 4, 5, 7)).astype(np.float32), random.normal(size=(1, 3, 6, 7)) + 0.3

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean((x.reshape(-1, 7) @ y.reshape(-1, 7).T) ** 2))

    discrepancy = kernel(one, one) - 2 * kernel(one, other) + kernel(other, other)
    apart = np.asarray(grams(one)) - np.asarray(grams(other.astype(np.float32)))
    assert float(np.sum(apart**2)) == pytest.approx(discrepancy, rel=1e-4)
    assert discrepancy > 0.1
    # Zero for the same features in any order: where they stand says nothing of a style.
    shuffled = random.permutation(one.reshape(20, 7)).reshape(1, 2, 10, 7)
    np.testing.assert_allclose(np.asarray(grams(shuffled)), np.asarray(grams(one)), atol=1e-5)


def test_eight_bit_weights_are_read_as_what_they_stand_for(metric: Any, weights: Path) -> None:
    kernel, _ = metric.network.get_layer("block1_conv1").get_weights()
    with np.load(weights) as stored:
        scale, least = stored["block1_conv1/kernel/scale_min"]
        np.testing.assert_allclose(kernel, stored["block1_conv1/kernel/q"] * scale + least, atol=1e-6)
    assert not metric.network.trainable_variables


def test_layers_that_are_not_there_are_named(weights: Path) -> None:
    from training.architectures import vgg19

    with pytest.raises(ValueError, match="block6_conv1"):
        vgg19.build(["block1_conv1", "block6_conv1"], weights)


def test_an_untouched_picture_has_all_of_its_content_and_none_of_the_style(metric: Any) -> None:
    image, style = texture(1), TINT * texture(2, 64)
    targets = metric.targets(image, style)
    assert metric.distances(image, targets) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    style_left, content = metric.distances(style[:, :48, :48], targets)
    assert style_left < 0.5
    assert content > 0.1


def test_the_table_has_a_row_for_each_method(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.evaluation import stylization

    monkeypatch.setattr(stylization, "load_perceptual_metric", lambda packs: metric)
    pictures, paintings = ([(255 * one[0]).astype(np.uint8)] for one in (texture(1), TINT * texture(2)))
    methods = {"nothing": lambda picture, painting: picture, "all": lambda picture, painting: painting}
    (table,) = stylization.tables(methods, None, "pytest", pictures=pictures, paintings=paintings)  # type: ignore[arg-type]
    assert [row[0] for row in table.rows] == ["untouched", "nothing", "all"]
    assert table.rows[1][1:] == [pytest.approx(1), pytest.approx(0, abs=1e-9)]
    assert table.rows[2][1] == pytest.approx(0, abs=1e-6)
    assert float(table.rows[2][2]) > 0.1


def test_steps_come_nearer_to_the_style_and_may_be_taken_in_several_calls(weights: Path) -> None:
    from training.architectures import style_optimizer, vgg19

    vgg = vgg19.build(sorted({style_optimizer.CONTENT, *style_optimizer.STYLE}), weights)
    networks = style_optimizer.build(vgg)
    image, style = texture(1, 32), TINT * texture(2, 48)
    content = np.asarray(networks["content"]({"image": image})["content"])
    grams = np.asarray(networks["look"]({"style": style})["grams"])

    def taken(state: dict[str, np.ndarray], count: int, before: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        turn = np.array([[count, before, 12, 5.0]], np.float32)
        answer = networks["optimize"]({**state, "content": content, "grams": grams, "turn": turn})
        return {key: np.asarray(answer[key]) for key in state}, np.asarray(answer["losses"])[0]

    start = {"image": image, "mean": np.zeros_like(image), "square": np.zeros_like(image)}
    _, first = taken(start, 1, 0)
    at_once, last = taken(start, 12, 0)
    state = start
    for before in (0, 4, 8):
        state, _ = taken(state, 4, before)
    assert first[0] == pytest.approx(0, abs=1e-6)
    assert last[1] < 0.8 * first[1]
    np.testing.assert_allclose(state["image"], at_once["image"], atol=1e-4)
    assert state["image"].min() >= 0
    assert state["image"].max() <= 1


def test_vgg19_is_published_as_a_model_of_its_own(weights: Path, tmp_path: Path) -> None:
    from models import repository as store
    from training.cli import main

    assert main(["publish", "vgg19", "--weights", str(weights), "--repository", str(tmp_path)]) == 0
    manifest = store.open_model(tmp_path / "stylize/vgg19/1")
    assert set(manifest.signatures) == {"optimize", "content", "look"}
    assert not store.is_default(manifest)


@pytest.mark.parametrize("content", [None, b"no archive", "another network's"])
def test_weights_that_are_not_there_are_one_line(
    content: bytes | str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.cli import main

    file = tmp_path / "weights.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        np.savez(file, **{"logits/kernel": np.zeros(3, np.float32)})
    assert main(["publish", "vgg19", "--weights", str(file), "--repository", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("training: cannot load the weights of VGG19: ")
    assert told.count("\n") == 1


def test_without_a_network_the_option_for_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from keras import applications

    from training.cli import main

    def offline(**options: object) -> None:
        raise Exception("URL fetch failure: Name or service not known")  # Keras's own, no narrower

    monkeypatch.setattr(applications, "VGG19", offline)
    assert main(["publish", "vgg19", "--repository", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "Name or service not known" in told
    assert "--weights" in told
    assert told.count("\n") == 1
