"""The benchmarks run, and compare equal work. No test asserts a speed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from app.engine.local import LocalEngine
from app.engine.precision import has_bfloat16
from app.engine.registry import Registry
from app.settings import Settings
from benchmarks import memory, onednn, precision, replicas, tiles
from benchmarks.simulated_service import SimulatedLoader
from tests.app.api.service import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(module: str, root: Path, *arguments: str) -> str:
    """Run a benchmark with the models in `root`, and return its output."""
    environment = os.environ | {"RESTORE_MODELS_DIR": str(root)}
    command = [sys.executable, "-m", f"benchmarks.{module}", "--no-record", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize("task", ["denoise", "superres", "segment"])
def test_service_and_bare_loop_give_the_same_bytes(tiny_repository: Path, task: str) -> None:
    # The benchmark ends with an error if the bytes differ.
    output = bench("serve", tiny_repository, "--task", task, "--side", "48", "--rounds", "1", "--callers", "2")
    assert float(re.findall(r"latency, ratio +([\d.]+)", output)[0]) > 0
    assert float(re.findall(r"throughput, ratio +([\d.]+)", output)[0]) > 0


@pytest.mark.tf
def test_precisions_of_each_default_model_are_compared(tiny_repository: Path) -> None:
    found = precision.measure(Settings(models_dir=(tiny_repository,)), rounds=1)
    names = {name.rpartition(",")[0] for name in found if name.endswith("(s)")}
    assert names == {"denoise/photo@1 denoise 64x64", "superres/nearest@1 x2 64x64", "segment/light@1 segment 64x64"}
    for name in names if has_bfloat16() else ():
        assert float(found[f"{name}, float32 : bfloat16"]) > 0
        assert float(found[f"{name}, bfloat16, difference"]) < 0.01


@pytest.mark.tf
@pytest.mark.slow
def test_each_default_model_is_timed_with_and_without_onednn(tiny_repository: Path) -> None:
    found = onednn.compare(tiny_repository, rounds=1)
    assert set(found) == {
        "denoise/photo@1 denoise 64x64",
        "superres/nearest@1 x2 64x64",
        "segment/light@1 segment 64x64",
    }
    assert min(min(times) for times in found.values()) > 0


@pytest.mark.tf
@pytest.mark.slow
def test_runtimes_compute_the_same(tiny_repository: Path) -> None:
    output = bench("runtimes", tiny_repository, "--size", "64", "64")
    assert float(re.findall(r"LiteRT difference +(\S+)", output)[0]) < 1e-4
    assert float(re.findall(r"LiteRT \(CPU s\) +([\d.]+)", output)[0]) > 0


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory_is_read_from_the_service(tiny_repository: Path) -> None:
    output = bench("memory", tiny_repository, "--megapixels", "0.2")
    figures = dict(re.findall(r"^(.+?) {2,}([\d.]+)$", output, re.MULTILINE))
    assert int(figures["peak (MiB)"]) >= int(figures["idle (MiB)"]) > 0


@pytest.mark.tf
@pytest.mark.slow
def test_a_task_is_compared_with_its_network_alone(tiny_repository: Path) -> None:
    output = bench("tiles", tiny_repository, "--megapixels", "0.05", "--rounds", "1")
    figures = dict(re.findall(r"^0.05 megapixels: (.+?) +([\d.]+)$", output, re.MULTILINE))
    assert float(figures["ratio"]) == pytest.approx(
        float(figures["s/megapixel"]) / float(figures["network alone"]), rel=0.1
    )
    assert float(figures["computed"]) >= 1


def test_pixels_are_counted_for_every_published_tiled_model() -> None:
    figures = tiles.count(Settings(), [0.25, 12])
    computed = {name: float(figures[name]) for name in figures if name.endswith(": computed")}
    assert {name.partition(",")[0] for name in computed} >= {"denoise/photo@6", "stylize/any@3", "segment/road@2"}
    assert all(
        value <= float(figures[name.replace("computed", "as in the manifest")]) for name, value in computed.items()
    )


@pytest.mark.tf
@pytest.mark.parametrize("module", ["benchmarks.inpaint", "benchmarks.stylize", "scripts.comparison_picture"])
def test_a_missing_pack_is_one_line(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORE_DATA_PACKS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [module])
    with pytest.raises(SystemExit, match=f"data pack .* is not in {tmp_path}"):
        import_module(module).main()


def test_a_tile_is_for_a_published_version() -> None:
    engine = LocalEngine(Registry([replicas.REPOSITORY], SimulatedLoader()), max_batch=1)
    engine.find(*replicas.make_request(engine, 8).model.split("/"))  # raises if there is none


def test_the_large_picture_has_the_size_that_was_asked_for() -> None:
    with Image.open(io.BytesIO(memory.photograph(0.6))) as picture:
        assert picture.format == "JPEG"
        assert abs(picture.width * picture.height / 1e6 - 0.6) < 0.01


def test_memory_of_a_process_and_of_all_that_it_started_is_read() -> None:
    assert memory.family(os.getpid())[0] == os.getpid()
    program = "import sys; kept = b'x' * (50 << 20); print(flush=True); sys.stdin.read()"
    alone = memory.mebibytes(os.getpid())
    with (
        memory.Peak(os.getpid()) as peak,
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in memory.family(os.getpid())
        assert memory.mebibytes(child.pid) >= 50
        assert memory.mebibytes(os.getpid()) > alone
        wait_until(lambda: peak.mebibytes > alone)
        child.communicate()
    assert child.pid not in memory.family(os.getpid())
