"""The variables of a published model, to start training from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

_END = "/.ATTRIBUTES/VARIABLE_VALUE"


def read_variables(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Return `layer/index` -> float32 array of one part of the published model in `folder`.

    Raises ValueError when the model has no such part, naming those that it has.
    """
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("weights/") and name.endswith(_END)]
    keys = {name: tuple(name.removeprefix("weights/").removesuffix(_END).rsplit("/", 2)) for name in names}
    known = sorted({key[0] for key in keys.values()})
    if part not in known:
        raise ValueError(f"{folder} has no part {part!r}; it has {known}")
    return {
        f"{layer}/{index}": reader.get_tensor(name).astype(np.float32)
        for name, (owner, layer, index) in keys.items()
        if owner == part
    }
