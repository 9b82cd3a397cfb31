"""A study on a Ray cluster of three machines, one of which dies: each cell once, no question paid twice, the bytes of
the run in one process. One test, because a cluster takes long to start."""

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray
from ray._private import ray_constants, services
from ray.cluster_utils import Cluster

from fake_endpoint import FakeEndpoint
from saelab.core.config import digest_of
from saelab.core.errors import ResourceError, SaelabError
from saelab.store.ledger import Ledger
from saelab.study import on_ray
from saelab.study.cells import stamped
from saelab.study.inputs import input_sums
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig

GIB = 2**30


# Ray gives its processes half a minute to start, each of which imports Python: too little on two busy cores.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
}


def patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`ask`, again and again for five minutes while it fails."""

    def asked(*args: Any, **named: Any) -> Any:
        end = time.monotonic() + 300
        while True:
            try:
                return ask(*args, **named)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return asked


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its workers would step back behind everything else
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 300)
    monkeypatch.setattr(services, "get_node", patient(services.get_node))
    room = {"num_cpus": 1, "memory": 2 * GIB, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=room)
    try:
        for _ in range(2):
            made.add_node(**room)
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        gc.collect()  # what is left of its processes goes here, where its warnings are expected


@pytest.fixture
def paid() -> Iterator[FakeEndpoint]:
    judge = FakeEndpoint(answer=some_answer)
    yield judge
    judge.close()


def some_answer(prompt: str) -> str:
    """A reply in good form that is a function of the question alone."""
    number = int(digest_of(prompt)[:8], 16)
    return f"Active: [[{1 + number % 2}]]" if "[Excerpts" in prompt else f"Rating: [[{number % 3}]]"


def asked(paid: FakeEndpoint) -> Counter[str]:
    """How often each question was paid for."""
    return Counter(json.dumps(call["messages"]) for call in paid.calls)


def kill_when_busy(cluster: Cluster, paid: FakeEndpoint) -> None:
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
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_three_machines_of_which_one_dies(
    study_data: dict[str, Any], cluster: Cluster, paid: FakeEndpoint, tmp_path: Path
) -> None:
    study_data["judge"] = {"name": "openai:fake-1", "base_url": paid.url, "concurrency": 4, "deadline": 280.0}
    study_data["interp"] |= {"calibrated": False, "n_scored": 12}
    study_data["resources"] = {"memory_gb": 0.5}
    study = StudyConfig.parse(study_data)
    here = run(study, tmp_path / "here", threads=1)
    once = asked(paid)
    anchored = [question for question, n in once.items() if n == 2]
    assert len(anchored) == 34 and set(once.values()) == {1, 2}, "the anchors first and last, all else once"

    paid.calls.clear()
    paid.open.clear()  # cells that ask the judge stay in flight until a machine has died
    killer = Thread(target=kill_when_busy, args=(cluster, paid), daemon=True)
    killer.start()
    there = run(study, tmp_path / "there", on="ray", threads=1)
    killer.join(60)

    assert there.results.path.read_bytes() == here.results.path.read_bytes()
    assert asked(paid) == once, "the same questions, none asked again although a cell was done again"
    rows = [row for row in Ledger(there.ledger).rows() if row.stage != "record"]
    cells = stamped(cells_of(study), input_sums(study))
    assert {r.key for r in rows} == {c.key for c in cells} and all(r.state == "done" for r in rows)
    assert sum(r.attempts - 1 for r in rows) >= 1, "control: the dead machine did hold a cell"
    assert sorted((r.stage, r.name) for r in rows) == sorted((c.stage, c.name) for c in cells_of(study))

    # What cannot run is refused before anything is begun.
    with pytest.raises(ResourceError, match="no machine of the Ray cluster"):
        run(study, tmp_path / "room", on="ray", threads=64)
    study_data["text"]["corpus"] = {"source": f"path:{tmp_path / 'nowhere'}"}
    with pytest.raises(SaelabError, match="nowhere"):
        run(StudyConfig.parse(study_data), tmp_path / "wrong", on="ray", threads=1)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("address", "said"), [(None, "did not start on this machine"), ("1.2.3.4:5", "no Ray cluster")]
)
def test_a_ray_that_does_not_start_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str | None, said: str
) -> None:
    """Ray raises bare exceptions for it."""

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SaelabError, match=said) as error, on_ray._connected(on_ray.RayPlace(address)):
        pass
    assert "timed out during startup." in str(error.value) and "More of it" not in str(error.value)
