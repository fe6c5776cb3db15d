"""The engine of many machines: replicas that Ray Serve keeps alive. Ray is imported when an engine is made."""

from app.engine.ray.cluster import Cluster, ClusterError
from app.engine.ray.engine import RayEngine

__all__ = ["Cluster", "ClusterError", "RayEngine"]
