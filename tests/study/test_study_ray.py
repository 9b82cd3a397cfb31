"""A study on a Ray cluster of three machines, one of which dies: each cell once, no question paid twice, the bytes of
the run in one process. One test, because a cluster takes long to start."""

import gc
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray
from paid_judge import PaidJudge
from ray.cluster_utils import Cluster

from saelab.core.errors import ResourceError, SaelabError
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig

GIB = 2**30


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its workers would step back behind everything else
    room = {"num_cpus": 1, "memory": 2 * GIB, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=room)
    for _ in range(2):
        made.add_node(**room)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()
    gc.collect()  # what is left of its processes goes here, where its warnings are expected


@pytest.fixture
def paid() -> Iterator[PaidJudge]:
    judge = PaidJudge()
    yield judge
    judge.close()


def kill_when_busy(cluster: Cluster, paid: PaidJudge) -> None:
    """Kill a machine while it works on a cell, then let the judge answer."""
    victim = list(cluster.worker_nodes)[-1]
    raylet = victim.all_processes["raylet"][0].process.pid
    end = time.monotonic() + 240
    while not working_under(raylet) and time.monotonic() < end:
        time.sleep(0.05)
    cluster.remove_node(victim, allow_graceful=False)
    paid.open.set()


def working_under(raylet: int) -> bool:
    """Whether a worker of this raylet is running a cell (Ray names the process after it)."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and (process / "cmdline").read_bytes().startswith(b"ray::work_on"):
                return True
        except (OSError, IndexError):
            continue
    return False


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_three_machines_of_which_one_dies(
    study_data: dict[str, Any], cluster: Cluster, paid: PaidJudge, tmp_path: Path
) -> None:
    study_data["judge"] = paid.settings
    study_data["interp"] |= {"calibrated": False, "n_scored": 12}
    study_data["resources"] = {"memory_gb": 0.5}
    study = StudyConfig.parse(study_data)
    here = run(study, tmp_path / "here", threads=1)
    once = Counter(paid.asked)
    assert once and set(once.values()) == {1}

    paid.asked.clear()
    paid.open.clear()  # cells that ask the judge stay in flight until a machine has died
    killer = Thread(target=kill_when_busy, args=(cluster, paid), daemon=True)
    killer.start()
    there = run(study, tmp_path / "there", on="ray", threads=1)
    killer.join(60)

    assert there.results.read_bytes() == here.results.read_bytes()
    assert Counter(paid.asked) == once, "the same questions, each asked once although a cell was done again"
    rows = Ledger(there.ledger).rows()
    assert {r.key for r in rows} == {c.key for c in cells_of(study)} and all(r.state == "done" for r in rows)
    assert sum(r.attempts - 1 for r in rows) >= 1, "control: the dead machine did hold a cell"
    assert sorted((r.stage, r.name) for r in rows) == sorted((c.stage, c.name) for c in cells_of(study))

    # What cannot run is refused, and an error in a worker comes back as its sentence.
    with pytest.raises(ResourceError, match="no machine of the Ray cluster"):
        run(study, tmp_path / "room", on="ray", threads=64)
    study_data["text"]["corpus"] = {"source": f"path:{tmp_path / 'nowhere'}"}
    with pytest.raises(SaelabError, match="nowhere"):
        run(StudyConfig.parse(study_data), tmp_path / "wrong", on="ray", threads=1)
    assert [r.state for r in Ledger(RunFolder(tmp_path / "wrong").ledger).rows()] == ["failed"]
