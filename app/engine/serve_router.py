"""The router as Ray Serve imports it, by its name. The one module that imports Ray at once: nothing here imports it."""

from __future__ import annotations

from ray.serve.request_router import RequestRouter

from app.engine.ray import LeastOutstandingRouter


class Router(LeastOutstandingRouter, RequestRouter):  # type: ignore[misc]
    """Serve's machinery with our choice of replica."""
