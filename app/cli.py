"""The command `restore`, or `python -m app`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
import time

import uvicorn

from app import logging
from app import settings as configuration
from app.api.server import ListenError, Server, bind, ignore_signals
from app.engine.ray import ClusterError
from app.jobs.store import JobStoreError
from app.main import create_app
from app.settings import Settings, SettingsError
from app.startup import print_line


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 2 if a setting is wrong or its port is in use."""
    begun = time.perf_counter()
    try:
        settings = configuration.read()
    except SettingsError as error:
        return _refuse(str(error))
    for sentence in configuration.find_misspelled():
        sys.stderr.write(f"restore: {sentence}\n")
    logging.configure(settings.log_format)
    try:
        sockets = bind(settings.host, settings.port)
    except ListenError as error:
        return _refuse(str(error))
    try:
        app = create_app(settings)
    except ClusterError as error:
        return _refuse(f"{configuration.variable('engine')}=ray: {error}")
    try:
        app.state.store.open()
    except JobStoreError as error:
        return _refuse(f"{configuration.variable('data_dir')}: {error}")

    def report_listening() -> None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print_line(f"serving on http://{host}:{settings.port} after {time.perf_counter() - begun:.1f} s, docs at /docs")

    ignore_signals()
    report = app.state.metrics.count_malformed
    server = Server(_configure_uvicorn(app, settings), app.state.shutdown, settings, report_listening, report)
    try:
        server.run(sockets)
    except ListenError as error:  # another process has begun to listen since `bind`
        return _refuse(str(error))
    print_line("stopped")
    return 0 if server.started else 1


def _configure_uvicorn(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
    )


def _refuse(reason: str) -> int:
    sys.stderr.write(f"restore: {reason}\n")
    return 2
