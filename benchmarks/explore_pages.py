"""What the explorer's pages cost on a run: the command to the first page, rows, a feature, the first steered token.

    python benchmarks/explore_pages.py demo

Starts `saelab explore` as a user would and asks it over HTTP, so Python's start and all imports count. Prints one line
of JSON a figure: seconds (the median of five where a page is asked again), MB of the server's memory.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    began = time.perf_counter()
    command = [sys.executable, "-m", "saelab", "explore", arguments.run, "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            visitor = Visitor(server.stdout.readline().split()[1])
            visitor.ask("")
            show("command to first page", seconds=time.perf_counter() - began)
            visitor.measure(began, server.pid, arguments.tokens)
        finally:
            server.send_signal(signal.SIGINT)
    show("ended", code=server.returncode)


class Visitor:
    """Somebody who entered by the printed address."""

    def __init__(self, address: str):
        self.base = address.partition("/?")[0]
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.opener.open(address).read()

    def ask(self, path: str) -> bytes:
        return self.opener.open(f"{self.base}/{path}").read()

    def again(self, path: str) -> float:
        """Median seconds of five answers."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            self.ask(path)
            times.append(time.perf_counter() - start)
        return median(times)

    def measure(self, began: float, pid: int, tokens: int) -> None:
        while json.loads(self.ask("api/state"))["state"] == "loading":
            time.sleep(0.1)
        show("command to model", seconds=time.perf_counter() - began)
        row = json.loads(self.ask("api/features?sort=density&limit=1"))["rows"][0]
        page = f"sae/{quote(row['sae'], safe='')}/{row['feature']}"
        while b"data-making" in self.ask(page):
            time.sleep(1)
        show("100 rows", seconds=self.again("api/features?sort=density&limit=100"))
        show("search", seconds=self.again("api/features?q=the&limit=100"))
        show("a feature's page", seconds=self.again(page))
        turn = {"sae": row["sae"], "feature": row["feature"], "share": 0.2}
        asked = {"prompt": "I think that", "features": [turn], "scales": [0.5, 1, 1.5], "tokens": tokens}
        for name in ("first use", "again"):
            times = list(self.written(asked))
            show(f"steered, {name}", first_token=times[0], all_of_them=times[-1])
        memory = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        show("memory", peak_mb=int(memory.split()[1]) / 1e3)

    def written(self, asked: dict[str, Any]) -> Iterator[float]:
        """Seconds until each line of a steering arrives."""
        start = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base}/api/steer", json.dumps(asked).encode(), headers)
        for _ in self.opener.open(request):
            yield time.perf_counter() - start


def show(name: str, **figures: float) -> None:
    print(json.dumps({"figure": name} | {n: round(v, 3) for n, v in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
