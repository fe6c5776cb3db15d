"""The router that Ray Serve imports by its name. This module imports Ray at once, so nothing else may import it."""

from __future__ import annotations

from ray.serve.request_router import RequestRouter

from app.engine.ray.router import LeastOutstandingRouter


class Router(LeastOutstandingRouter, RequestRouter):  # type: ignore[misc]
    """Ray Serve's router, choosing replicas as LeastOutstandingRouter does."""
