"""Some cells of tests/freshness (the whole matrix at 1,000 clients takes a quarter of an hour): each hop broken in each way, and
two at once. tests/faults/freshness.py says what holds and for how long."""

import asyncio
import pathlib
import sys

import pytest

from harness import PATIENCE

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))
import freshness  # noqa: E402

SINGLE = [cell for cell in freshness.cells() if len(cell) == 1]
PAIRS = [("engine frozen", "producer killed"), ("engine killed", "uplink partitioned"), ("producer frozen", "broker killed"),
         ("producer garbage", "uplink garbage"), ("broker frozen", "uplink killed"), ("engine garbage", "broker partitioned")]


@pytest.mark.parametrize("cells", [SINGLE[:8], SINGLE[8:], PAIRS], ids=["engine and producer", "broker and uplink", "pairs"])
def test_each_client_hears_in_time_that_values_are_old_and_that_they_are_new_again(cells, tmp_path):
    rows, wrong = asyncio.run(freshness.measure(tmp_path, cells, clients=40, slack=0.5 * PATIENCE))
    assert not wrong, "\n".join(wrong)
    assert len(rows) == len(cells)


def test_the_matrix_has_every_hop_every_fault_and_every_two():
    cells = freshness.cells()
    assert len(cells) == 16 + 6 * 16 and len(set(cells)) == len(cells)
    assert all(bound > 0 for cell in cells for bound in freshness.bounds_of(cell))


def test_who_is_late_or_called_live_too_long_is_named():
    found = {"cell": "broker killed", "oldest_live": 2.5, "first": 2.0, "last": 3.0, "back_first": 0.5, "back_last": 1.0}
    assert freshness.faults_of(found, 0) == []
    for change in ({"last": 3.4}, {"back_last": 3.4}, {"oldest_live": 3.4}):
        assert len(freshness.faults_of({**found, **change}, 0)) == 1
    assert len(freshness.faults_of({"cell": "broker killed", "oldest_live": 0}, 0)) == 2, "never told, never back"
