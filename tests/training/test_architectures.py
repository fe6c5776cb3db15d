"""What every network keeps: shapes, finite answers, a gradient for every weight, its weights file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import keras

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A network that `build` makes small, the sizes (height, width) it is asked for, and its output over its input."""

    build: Callable[[], keras.Model]
    sizes: tuple[tuple[int, int], ...]
    scale: int = 1


def ffdnet(channels: int = 3) -> keras.Model:
    from training.architectures import ffdnet

    return ffdnet.build(channels, width=8, depth=4)


def build_rlfn(scale: int, blocks: int = 2) -> keras.Model:
    from training.architectures import rlfn
    from training.enlarge import bicubic_kernel

    return rlfn.build(scale, bicubic_kernel(3, scale), width=8, blocks=blocks, gate=4)


def rlfn(scale: int) -> keras.Model:
    """Return an RLFN whose one result needs both of its exits."""
    import keras

    network = build_rlfn(scale)
    both = network.output["image"] + network.output["unfiltered"]
    return keras.Model(network.input, {"image": both})


def srvgg() -> keras.Model:
    from training.architectures import srvgg

    return srvgg.build(width=8, depth=2)


def unet(**options: object) -> keras.Model:
    from training.architectures import unet

    return finished(lambda x: unet.build(x, filters=4, **options))


def skip_autoencoder() -> keras.Model:
    from training.architectures import skip_autoencoder

    return finished(lambda x: skip_autoencoder.build(x, widths=(4, 8, 12)))


def plain_autoencoder() -> keras.Model:
    from training.architectures import plain_autoencoder

    return finished(lambda x: plain_autoencoder.build(x, widths=(4, 8, 12)))


def deeplab(stride: int) -> keras.Model:
    from training.architectures import deeplab, mobilenet_v2

    return finished(lambda x: deeplab.build(mobilenet_v2.features(x, stride=stride), 5, width=16))


def xception() -> keras.Model:
    from training.architectures import deeplab, xception

    return finished(lambda x: deeplab.build(xception.features(x), 5, width=16))


def joined_unet() -> keras.Model:
    from training.architectures import mobilenet_v2, unet

    return finished(lambda x: unet.joined(mobilenet_v2.features(x, groups=5), (12, 8, 6)))


def inpainter() -> keras.Model:
    from training.architectures import inpainter

    return inpainter.build(width=4, blocks=2)


def valid_autoencoder() -> keras.Model:
    from training.architectures import valid_autoencoder

    return finished(lambda x: valid_autoencoder.build(x, widths=(4, 6, 8)))


def digits_denoiser() -> keras.Model:
    from training.architectures import digits_denoiser

    return digits_denoiser.build()


def digits_autoencoder() -> keras.Model:
    from training.architectures import digits_autoencoder

    return digits_autoencoder.build()


def finished(features: Callable[[keras.KerasTensor], keras.KerasTensor]) -> keras.Model:
    """Return a network of what only makes features, with an exit of three channels."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3), name="image")
    return keras.Model({"image": image}, {"image": layers.Conv2D(3, 1, name="exit")(features(image))})


DIGIT = ((28, 28),)
CASES = {
    "ffdnet": Case(ffdnet, ((2, 2), (16, 38))),
    "ffdnet gray": Case(lambda: ffdnet(1), ((4, 4), (12, 8))),
    "rlfn x2": Case(lambda: rlfn(2), ((4, 4), (12, 20)), 2),
    "rlfn x3": Case(lambda: rlfn(3), ((4, 4), (12, 20)), 3),
    "rlfn x4": Case(lambda: rlfn(4), ((4, 4), (12, 20)), 4),
    "srvgg": Case(srvgg, ((1, 1), (7, 12)), 4),
    "unet": Case(unet, ((16, 16), (32, 48))),
    "unet dropout": Case(lambda: unet(dropout=0.2), ((16, 32),)),
    "unet batch_norm": Case(lambda: unet(batch_norm=True), ((32, 32),)),
    "unet joined": Case(joined_unet, ((16, 16), (32, 48))),
    "skip_autoencoder": Case(skip_autoencoder, ((4, 4), (12, 20))),
    "plain_autoencoder": Case(plain_autoencoder, ((8, 8), (16, 40))),
    "mobilenet_v2": Case(lambda: deeplab(16), ((32, 32), (48, 64))),
    "deeplab stride 8": Case(lambda: deeplab(8), ((32, 48),)),
    "xception": Case(xception, ((32, 32), (48, 64))),
    "inpainter": Case(inpainter, ((64, 64), (64, 128))),
    "valid_autoencoder": Case(valid_autoencoder, ((36, 36), (52, 100))),
    "digits_denoiser": Case(digits_denoiser, DIGIT),
    "digits_autoencoder": Case(digits_autoencoder, DIGIT),
}


def inputs(network: keras.Model, count: int, size: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs in [0, 1] for `network`."""
    random = np.random.default_rng(seed)
    return {
        name: random.random((count, *(size if name in ("image", "mask") else (1, 1)), tensor.shape[-1]), np.float32)
        for name, tensor in network.input.items()
    }


def answer(network: keras.Model, given: dict[str, np.ndarray]) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(network(given, training=False)["image"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test begins with the same weights: what an untrained network answers depends on them."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def network(case: Case) -> keras.Model:
    """Return the case's network, for tests that leave its weights as they were: to build it takes seconds."""
    import keras

    keras.utils.set_random_seed(0)
    return case.build()


@pytest.fixture(scope="module")
def another(case: Case) -> keras.Model:
    """Return a second network of the case, whose weights a test may change."""
    return case.build()


def test_sizes_and_finite_answers_and_no_picture_minds_its_neighbors(case: Case, network: keras.Model) -> None:
    for height, width in case.sizes:
        given = inputs(network, 3, (height, width))
        found = answer(network, given)
        channels = given["image"].shape[-1]
        assert found.shape == (3, case.scale * height, case.scale * width, channels)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        alone = answer(network, {name: array[1:2] for name, array in given.items()})
        np.testing.assert_allclose(found[1:2], alone, atol=1e-5)


def test_every_weight_has_a_gradient(case: Case, network: keras.Model) -> None:
    import tensorflow as tf
    from keras import ops

    given = inputs(network, 4, case.sizes[-1])
    truth = np.random.default_rng(1).random(answer(network, given).shape, np.float32)
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(network(given, training=True)["image"] - truth))
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient.numpy()).all(), variable.path
        # A normalization takes out what a bias before it adds.
        if "batch_norm" not in variable.path and not (has_norm(network) and variable.path.endswith("/bias")):
            assert np.abs(gradient.numpy()).max() > 0, variable.path


def test_a_graph_of_any_height_and_width_gives_the_same_answer(case: Case, network: keras.Model) -> None:
    import tensorflow as tf

    free = {name: tf.TensorSpec([None, None, None, tensor.shape[-1]]) for name, tensor in network.input.items()}
    if case.sizes == DIGIT:
        free = {name: tf.TensorSpec([None, *DIGIT[0], 1]) for name in free}
    graph = tf.function(lambda given: network(given, training=False)["image"], input_signature=[free])
    given = inputs(network, 2, case.sizes[-1])
    np.testing.assert_allclose(graph(given).numpy(), answer(network, given), atol=1e-5)


def has_norm(network: keras.Model) -> bool:
    return any("norm" in layer.name for layer in network.layers)


def test_weights_saved_and_taken_by_name_give_the_same_answer(
    case: Case, network: keras.Model, another: keras.Model, tmp_path: Path
) -> None:
    from training.checkpoints import load_initial_weights

    weights = network.get_weights()
    given = inputs(network, 2, case.sizes[-1])
    before = answer(network, given)
    for variable in network.trainable_variables:
        variable.assign(np.random.default_rng(2).normal(0, 0.1, variable.shape))
    changed = answer(network, given)
    network.save_weights(tmp_path / "network.weights.h5")
    network.set_weights(weights)
    np.testing.assert_array_equal(answer(network, given), before)
    assert np.abs(answer(another, given) - changed).max() > 1e-4
    assert load_initial_weights(another, tmp_path / "network.weights.h5", "denoise") == sum(
        len(x.weights) for x in another.layers
    )
    np.testing.assert_array_equal(answer(another, given), changed)


def test_weights_are_taken_by_the_names_of_their_variables(tmp_path: Path) -> None:
    from training.checkpoints import load_initial_weights

    network, fresh = deeplab(16), deeplab(16)
    for variable in network.weights:
        variable.assign(np.random.default_rng(3).uniform(0.5, 1.5, variable.shape))
    named = {
        f"{layer.name}/{variable.name}": np.asarray(variable) for layer in network.layers for variable in layer.weights
    }
    np.savez(tmp_path / "named.npz", **named)
    assert load_initial_weights(fresh, tmp_path / "named.npz", "segment") == len(network.weights)
    for mine, theirs in zip(fresh.weights, network.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_layers_have_names_of_their_own(network: keras.Model, another: keras.Model) -> None:
    """Weights are found by the names of their layers: two networks built in one process must agree on them."""
    names = [[layer.name for layer in one.layers if layer.weights] for one in (network, another)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])


def test_every_architecture_is_here() -> None:
    files = {path.stem for path in (ROOT / "training/architectures").glob("[a-z]*.py")}
    assert files == {name.split()[0] for name in CASES} | {
        "aliasing_detector",
        "dcgan",
        "latent_search",
        "style_optimizer",
        "style_painter",
        "u2net",
        "vgg19",
    }  # which have inputs and tests of their own


def authors_rlfn(stored: dict[str, np.ndarray], image: np.ndarray, blocks: int, scale: int) -> np.ndarray:
    """Return what the authors' network makes of `image` (1, H, W, 3) with its gates on a grid of 4x4 pixels."""
    import cv2
    import tensorflow as tf

    def convolve(x: Any, name: str, stride: int = 1) -> Any:
        return tf.nn.conv2d(x, stored[f"{name}/weight"], stride, "SAME") + stored[f"{name}/bias"]

    first = x = convolve(image * 255, "conv_1")
    for number in range(1, blocks + 1):
        name = f"block_{number}"
        inner = x
        for layer in ("c1_r", "c2_r", "c3_r"):
            inner = tf.nn.leaky_relu(convolve(inner, f"{name}/{layer}"), 0.05)
        x = convolve(inner + x, f"{name}/c5")
        entrance = convolve(x, f"{name}/esa/conv1")
        coarse = tf.nn.max_pool2d(convolve(entrance, f"{name}/esa/conv2", 2), 7, 2, "SAME")
        coarse = convolve(coarse, f"{name}/esa/conv3")[0].numpy()
        wide = cv2.resize(coarse, image.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)[None]
        x *= tf.sigmoid(convolve(wide + convolve(entrance, f"{name}/esa/conv_f"), f"{name}/esa/conv4"))
    x = convolve(convolve(x, "conv_2") + first, "upsampler/0").numpy()
    height, width = image.shape[1:3]
    shuffled = x.reshape(height, width, 3, scale, scale).transpose(0, 3, 1, 4, 2)
    return shuffled.reshape(1, height * scale, width * scale, 3) / 255


def authors_rlfn_weights(scale: int, width: int = 8, blocks: int = 2, gate: int = 4) -> dict[str, np.ndarray]:
    shapes = {"conv_1": (3, 3, width), "conv_2": (3, width, width), "upsampler/0": (3, width, 3 * scale**2)}
    for number in range(1, blocks + 1):
        block = {f"{name}": (3, width, width) for name in ("c1_r", "c2_r", "c3_r")} | {"c5": (1, width, width)}
        block |= {"esa/conv1": (1, width, gate), "esa/conv_f": (1, gate, gate), "esa/conv4": (1, gate, width)}
        block |= {"esa/conv2": (3, gate, gate), "esa/conv3": (3, gate, gate)}
        shapes |= {f"block_{number}/{name}": shape for name, shape in block.items()}
    random = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    for name, (side, before, after) in shapes.items():
        stored[f"{name}/weight"] = random.normal(0, 0.1, (side, side, before, after)).astype(np.float32)
        stored[f"{name}/bias"] = random.normal(0, 0.1, after).astype(np.float32)
    return stored


@pytest.mark.parametrize("scale", [2, 4])
def test_the_weights_of_rlfn_s_authors_are_taken(scale: int) -> None:
    from training.architectures import rlfn
    from training.weights import take

    stored = authors_rlfn_weights(scale)
    network = build_rlfn(scale)
    assert take(network, rlfn.convert_weights(stored, scale)) == len(network.variables) - 2  # the other exit
    given = inputs(network, 1, (12, 20))
    expected = authors_rlfn(stored, given["image"], 2, scale)
    np.testing.assert_allclose(answer(network, given), expected, atol=1e-4)


def test_an_exit_for_another_scale_enlarges_the_same_picture() -> None:
    """A smooth result of x4, reduced to x3, is what the resampled exit gives."""
    from training.architectures.rlfn import resample_exit

    ramp = np.linspace(0, 1, 4)[:, None] + 2 * np.linspace(0, 1, 4)[None]
    resampled = resample_exit(np.tile(ramp, (3, 1, 1)).reshape(1, -1), 3).reshape(3, 3, 3)
    centers = ((np.arange(3) + 0.5) / 3 * 4 - 0.5) / 3
    np.testing.assert_allclose(resampled[..., 0], centers[:, None] + 2 * centers[None], atol=1e-6)


def test_a_solved_exit_has_the_least_error() -> None:
    import keras

    from training.architectures import rlfn

    network = build_rlfn(2, blocks=1)
    small = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    large = small.repeat(2, axis=1).repeat(2, axis=2)  # the features of a pixel tell its colors

    def error(exit_: str) -> float:
        found = keras.ops.convert_to_numpy(network({"image": small})[exit_])
        return float(np.abs(found - large)[:, 8:-8, 8:-8].mean())

    before = {name: error(name) for name in rlfn.EXITS}
    rlfn.solve_exit(network, "unfiltered", [(small, large)])
    assert error("unfiltered") < 0.02 < before["unfiltered"]
    assert error("image") == before["image"]


def test_a_solved_detector_tells_jagged_pictures_from_smooth_ones() -> None:
    import cv2
    import keras

    from training.architectures import aliasing_detector

    random = np.random.default_rng(0)
    jagged = random.random((12, 64, 64, 3), np.float32)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 1.0) for picture in jagged])
    network = aliasing_detector.build(2)
    aliasing_detector.solve(network, 1, np.concatenate([jagged, smooth]), np.arange(24) < 12)
    for pictures, truth in ((jagged, True), (smooth, False), (jagged[:, :32, :41], True), (smooth[:, :33, :32], False)):
        found = keras.ops.convert_to_numpy(network({"image": pictures})["evidence"])
        assert found.shape == (12, 1, 1, 2)
        assert (np.abs(found[..., 0]) < 0.1).all()
        assert ((found[..., 1] > 0) == truth).all()
    flat = keras.ops.convert_to_numpy(network({"image": np.full((1, 40, 40, 3), 0.3, np.float32)})["evidence"])
    assert (flat < -0.9).all()


def test_exits_are_mixed_by_a_share() -> None:
    import keras

    from training.recipes.superres_photo import mix_exits

    network = build_rlfn(2)
    image = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    both = {name: keras.ops.convert_to_numpy(one) for name, one in network({"image": image}).items()}
    share = np.array([0, 0.25, 1], np.float32)[:, None, None, None]
    found = keras.ops.convert_to_numpy(mix_exits(network)({"image": image, "share": share})["image"])
    expected = both["image"] + share * (both["unfiltered"] - both["image"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_reduced_result_is_the_mean_of_areas(scale: int) -> None:
    import cv2

    from training.architectures.srvgg import reduce_result

    network = srvgg()
    given = inputs(network, 1, (9, 14))
    size = (14 * scale, 9 * scale)
    expected = cv2.resize(answer(network, given)[0], size, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(answer(reduce_result(network, scale), given)[0], expected, atol=1e-5)


def test_the_weights_of_real_esrgan_s_authors_are_taken() -> None:
    import tensorflow as tf

    from training.architectures.srvgg import convert_weights
    from training.weights import take

    random, widths = np.random.default_rng(0), (3, 8, 8, 8, 48)
    stored: dict[str, np.ndarray] = {}
    for index in range(4):
        shape = (3, 3, widths[index], widths[index + 1])
        stored[f"conv_{index}/kernel"] = random.normal(0, 0.2, shape).astype(np.float32)
        stored[f"conv_{index}/bias"] = random.normal(0, 0.2, shape[-1]).astype(np.float32)
        if index < 3:
            stored[f"prelu_{index}/alpha"] = random.normal(0, 0.2, shape[-1]).astype(np.float32)
    network = srvgg()
    assert take(network, convert_weights(stored)) == len(network.variables)
    given = inputs(network, 1, (7, 12))
    x = given["image"]
    for index in range(4):
        x = tf.nn.conv2d(x, stored[f"conv_{index}/kernel"], 1, "SAME").numpy() + stored[f"conv_{index}/bias"]
        x = np.where(x > 0, x, x * stored[f"prelu_{index}/alpha"]) if index < 3 else x
    shuffled = x.reshape(7, 12, 3, 4, 4).transpose(0, 3, 1, 4, 2).reshape(1, 28, 48, 3)
    expected = shuffled + given["image"].repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(answer(network, given), expected, atol=1e-5)


def test_the_level_is_told() -> None:
    network = ffdnet()
    given = inputs(network, 1, (16, 16))
    louder = given | {"level": given["level"] + 0.5}
    assert np.abs(answer(network, louder) - answer(network, given)).max() > 1e-5


def authors_ffdnet(stored: dict[str, np.ndarray], image: np.ndarray, level: float) -> np.ndarray:
    """Return what the authors' network makes of `image` (1, H, W, C), written from the paper: channels come first."""
    import tensorflow as tf

    _, height, width, channels = image.shape
    blocks = image[0].reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 4, 1, 3)
    x = blocks.reshape(1, height // 2, width // 2, 4 * channels)
    plane = np.full((1, height // 2, width // 2, 1), level * 75 / 255, np.float32)
    x = tf.concat([x, plane], axis=-1)
    for index in range(len(stored) // 2):
        x = tf.nn.conv2d(tf.nn.relu(x) if index else x, stored[f"model/{2 * index}/weight"], 1, "SAME")
        x += stored[f"model/{2 * index}/bias"]
    found = x.numpy().reshape(height // 2, width // 2, channels, 2, 2).transpose(0, 3, 1, 4, 2)
    return found.reshape(1, height, width, channels)


def test_the_weights_of_ffdnet_s_authors_are_taken(tmp_path: Path) -> None:
    from training.architectures.ffdnet import convert_weights
    from training.checkpoints import load_initial_weights

    random, widths = np.random.default_rng(0), (13, 8, 8, 8, 12)
    stored: dict[str, np.ndarray] = {}
    for index in range(4):
        shape = (3, 3, widths[index], widths[index + 1])
        stored[f"model/{2 * index}/weight"] = random.normal(0, 0.2, shape).astype(np.float32)
        stored[f"model/{2 * index}/bias"] = random.normal(0, 0.2, shape[-1]).astype(np.float32)
    np.savez(tmp_path / "authors.npz", **stored)
    network = ffdnet()
    assert load_initial_weights(network, tmp_path / "authors.npz", "denoise", convert_weights) == len(stored)
    given = inputs(network, 1, (12, 20))
    expected = authors_ffdnet(stored, given["image"], float(given["level"].reshape(())))
    np.testing.assert_allclose(answer(network, given), expected, atol=1e-5)


def test_ffdnet_in_bfloat16_answers_alike_up_to_the_borders() -> None:
    from training.architectures.ffdnet import in_bfloat16
    from training.rounding import to_bfloat16

    network, random = ffdnet(), np.random.default_rng(0)
    for variable in network.variables:
        variable.assign(random.normal(0.02, 0.15, variable.shape))
    samples = {"image": random.random((4, 32, 32, 3), np.float32), "level": random.random((4, 1, 1, 1), np.float32)}
    found = in_bfloat16(network, samples)
    given = inputs(network, 1, (12, 20))
    difference = np.abs(answer(found, given) - answer(network, given))
    assert difference.max() < 0.02 * answer(network, given).std()
    assert difference[:, 1:-1, 1:-1].max() > difference.max() / 4  # it is no larger where zeros are added
    for layer in found.layers:
        if layer.compute_dtype == "bfloat16" and layer.weights:
            for variable in layer.weights:
                value = np.asarray(variable)
                np.testing.assert_array_equal(value, to_bfloat16(value))


def test_the_code_of_the_digits_has_128_numbers() -> None:
    network = digits_autoencoder()
    assert network.get_layer("shrink_2").output.shape == (None, 4, 4, 8)


def test_an_inpainter_leaves_what_is_known_as_it_is() -> None:
    network = inpainter()
    given = inputs(network, 1, (64, 128))
    given["mask"] = np.zeros_like(given["mask"])
    given["mask"][0, 20:50, 30:90] = 1
    found = answer(network, given)
    known = given["mask"][..., 0] == 0
    np.testing.assert_array_equal(found[known], given["image"][known])
    # What is under the mask must not matter.
    hidden = given | {"image": np.where(given["mask"] > 0, 7, given["image"]).astype(np.float32)}
    np.testing.assert_allclose(answer(network, hidden), found, atol=1e-5)


def test_a_smooth_fill_is_between_what_is_around_it() -> None:
    from keras import ops

    from training.architectures.inpainter import push_pull

    columns = np.linspace(0, 1, 128, dtype=np.float32)
    ramp = np.broadcast_to(columns[None, None, :, None], (1, 128, 128, 3))
    mask = np.zeros((1, 128, 128, 1), np.float32)
    mask[0, 30:100, 40:80] = 1
    filled = ops.convert_to_numpy(push_pull(ops.convert_to_tensor(ramp * (1 - mask)), ops.convert_to_tensor(mask)))
    assert np.abs(filled - ramp).max() < 0.12
    everything = ops.convert_to_numpy(push_pull(ops.zeros((1, 64, 64, 3)), ops.ones((1, 64, 64, 1))))
    assert np.isfinite(everything).all()
    flat = ops.convert_to_numpy(push_pull(ops.full((1, 128, 128, 3), 0.3) * (1 - mask), ops.convert_to_tensor(mask)))
    np.testing.assert_allclose(flat, 0.3, atol=1e-5)


def test_a_smooth_fill_of_any_size_leaves_what_is_known() -> None:
    from keras import ops

    from training.architectures.inpainter import push_pull

    random = np.random.default_rng(0)
    for height, width in ((100, 100), (37, 90), (1, 5)):
        picture = random.uniform(size=(1, height, width, 3)).astype(np.float32)
        mask = (random.uniform(size=(1, height, width, 1)) < 0.5).astype(np.float32)
        filled = ops.convert_to_numpy(push_pull(picture * (1 - mask), ops.convert_to_tensor(mask)))
        assert filled.shape == picture.shape
        np.testing.assert_array_equal((filled * (1 - mask)), picture * (1 - mask))
        assert filled.min() >= 0
        assert filled.max() <= 1.0001
