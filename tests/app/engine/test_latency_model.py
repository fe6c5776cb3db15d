from __future__ import annotations

from pathlib import Path

import pytest

from app.engine.latency_model import MAX_BATCH_S, MAX_SIZES, UNKNOWN, LatencyModel

NAME = ("denoise/photo@1", "denoise")


def measured(*sizes: tuple[int, int, float], device: str = "") -> LatencyModel:
    """Return a table of (pixels, tiles, seconds), each measured twice."""
    table = LatencyModel(device)
    for pixels, tiles, seconds in sizes:
        table.record(*NAME, pixels, tiles, seconds)
        table.record(*NAME, pixels, tiles, seconds)
    return table


def test_the_second_call_replaces_the_first_and_later_ones_are_averaged() -> None:
    table = LatencyModel()
    table.record(*NAME, 100, 1, 8.0)  # it also prepares the device
    assert table.seconds(*NAME, 100) == 8.0
    table.record(*NAME, 100, 1, 1.0)
    assert table.seconds(*NAME, 100) == 1.0
    for _ in range(60):
        table.record(*NAME, 100, 1, 2.0)
    assert table.seconds(*NAME, 100) == pytest.approx(2.0, rel=1e-3)


def test_a_size_that_was_never_called_is_interpolated() -> None:
    table = measured((100, 1, 1.0), (100, 4, 2.0))
    assert table.seconds(*NAME, 100, 2) == pytest.approx(1 + 1 / 3)
    assert table.seconds(*NAME, 200, 1) == pytest.approx(1 + 1 / 3)
    assert table.seconds(*NAME, 50) == pytest.approx(0.5)
    assert table.seconds(*NAME, 100, 8) == pytest.approx(4.0)


def test_a_model_that_was_never_called_takes_as_long_as_others() -> None:
    assert LatencyModel().seconds("a", "b", 1000) == pytest.approx(1000 * UNKNOWN)
    assert measured((100, 1, 1.0), (100, 3, 3.0)).seconds("a", "b", 1000) == pytest.approx(10.0)


def test_the_best_batch_takes_the_least_time_per_tile() -> None:
    # Four milliseconds a call and one and a half a tile, up to eight; beyond, it takes eight at a time.
    table = measured(*((100, n, (4 + 1.5 * n) / 1000) for n in (1, 2, 4, 8)), (100, 16, 0.032))
    chosen = {waiting: table.best_batch_size(*NAME, 100, waiting, 64) for waiting in (1, 2, 3, 4, 5, 6, 7, 8, 9, 100)}
    assert chosen == {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 8, 8: 8, 9: 8, 100: 8}
    assert table.best_batch_size(*NAME, 100, 100, 4) == 4


def test_the_best_batch_is_one_tile_where_larger_ones_save_nothing() -> None:
    assert measured((100, 1, 0.1), (100, 2, 0.198)).best_batch_size(*NAME, 100, 50, 64) == 1


def test_batch_does_not_hold_the_device_for_long() -> None:
    table = measured(*((100, n, MAX_BATCH_S / 4 * (1 + n / 100)) for n in (1, 2)), (100, 4, MAX_BATCH_S * 1.1))
    assert table.best_batch_size(*NAME, 100, 4, 64) == 2


def test_a_batch_that_takes_no_longer_than_one_tile_may_be_long() -> None:
    table = measured(*((100, n, 2 * MAX_BATCH_S) for n in (1, 2, 4)), (100, 8, 2.1 * MAX_BATCH_S))
    assert table.best_batch_size(*NAME, 100, 8, 64) == 4


def test_larger_batches_are_tried_while_they_pay_and_are_short() -> None:
    table = measured((100, 1, 0.01), (100, 2, 0.015), (100, 4, 0.0295), (200, 1, MAX_BATCH_S))
    assert [table.larger_batch_pays(*NAME, 100, tiles) for tiles in (1, 2, 4)] == [True, True, False]
    assert not table.larger_batch_pays(*NAME, 200, 1)


def test_number_of_sizes_is_bounded() -> None:
    table = LatencyModel()
    for pixels in range(1, MAX_SIZES + 100):
        table.record(*NAME, pixels, 1, 1.0)
    assert len(table.rows()) == MAX_SIZES
    assert table.knows(*NAME, MAX_SIZES + 99)
    assert not table.knows(*NAME, 1)


def test_latencies_are_loaded_from_a_file_of_the_same_device_only(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    table = measured((100, 1, 1.0), (100, 4, 2.0), device="one")
    table.save(path)
    same, other = LatencyModel("one"), LatencyModel("two")
    same.load(path)
    other.load(path)
    assert same.rows() == table.rows()
    assert other.rows() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"device": ""}', '{"device": "", "rows": [[1]]}', '{"device": "", "rows": 5}']
)
def test_a_broken_file_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    table = LatencyModel()
    table.load(path)
    assert table.rows() == []


def test_values_that_are_no_times_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"device": "", "rows": [["m", "s", 1, 1, NaN], ["m", "s", 2, 1, -1], ["m", "s", 3, 1, 0.5]]}')
    table = LatencyModel()
    table.load(path)
    assert table.rows() == [("m", "s", 3, 1, 0.5)]


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    measured((100, 1, 1.0)).save(tmp_path / "not there" / "costs.json")
