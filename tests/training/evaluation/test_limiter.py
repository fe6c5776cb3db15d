"""The evaluation limits a correction exactly as the service does; neither may import the other."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging import limiter as served
from training.evaluation import limiter


@pytest.mark.parametrize("estimated", [None, 0.005, 0.02, 0.1])
@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.05, 0.3])
def test_the_limit_is_the_services(sigma: float, estimated: float | None) -> None:
    random = np.random.default_rng(0)
    image = random.random((40, 33, 3), np.float32)
    denoised = image + random.normal(0, 0.06, image.shape).astype(np.float32)
    denoised[10:20, :15] += 0.2
    limited = limiter.limit_correction(image, denoised, sigma, estimated)
    np.testing.assert_allclose(limited, served.limit_correction(image, denoised, sigma, estimated), atol=1e-5)
    whole = sigma == 0.3 and estimated in (None, 0.1)
    assert np.allclose(limited, denoised, atol=1e-6) == whole  # the others are cases in which something is limited
