"""A sweep of two variants and one that cannot start, on clusters of fake engines: interrupted, gone on with, and looked
at in a browser."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import browser_page, needs_browser
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster
from helpers.ports import free_port

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
CLUSTER = f"""\
model: fake
command: {FAKE}
context_servers: {{}}
generation_servers: {{}}
"""
SWEEP = """\
cluster: cluster.yaml
variants:
- {name: 1p1d}
- {name: aggregated, set: {context_servers.num_instances: 0, generation_servers.num_instances: 2}}
- {name: broken, set: {generation_servers.cores: [9999]}}
concurrencies: [1, 4]
load: {isl: 16, osl: 8, rounds: 1}
"""


@pytest.fixture
def place(tmp_path: Path) -> Cluster:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return Cluster(tmp_path, CLUSTER)


@contextlib.contextmanager
def sweeping(place: Cluster, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [*TRTDISAGG, "bench", "sweep", *words]
    with subprocess.Popen(command, cwd=place.directory, env=place.env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {seen}")


@pytest.mark.anyio
@pytest.mark.browser
@needs_browser
async def test_a_sweep_that_is_interrupted_goes_on_and_ends_in_a_report(place: Cluster) -> None:
    out = place.directory / "out"
    with sweeping(place, "sweep.yaml", "--dir", "out") as process:
        read_until(process, "aggregated: starting")
        process.send_signal(signal.SIGINT)
        read_until(process, "--resume out goes on")
        assert process.wait(120) == 130
    assert place.left_over() == []
    first = (out / "1p1d" / "run.json").read_bytes()
    assert not (out / "aggregated" / "run.json").exists()

    done = place.run("bench", "sweep", "--resume", "out")
    assert done.returncode == 1, done.stderr
    assert place.left_over() == []
    assert "broken, all that is missing: its cluster ended with exit code 2" in done.stderr
    assert (out / "1p1d" / "run.json").read_bytes() == first, "what is done is not run again"
    for variant in ("1p1d", "aggregated"):
        report = json.loads((out / variant / "c004" / "report.json").read_text())
        assert (report["completed"], report["max_concurrency"]) == (4, 4)
        ran = json.loads((out / variant / "run.json").read_text())
        assert ran["ended_at"]
        assert len(ran["servers"]) == 2
    await check_page(out / "report.html", place.directory)


async def check_page(file: Path, directory: Path) -> None:
    async with browser_page(directory) as page:
        await page.open(file.as_uri(), width=1280, height=900)
        sizes = await page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth * i.naturalHeight)")
        assert len(sizes) == 2
        assert all(size > 100_000 for size in sizes)
        assert await page.evaluate("[...document.images].every(i => i.alt.length > 20)")
        await page.evaluate("void (window.light = document.images[0].currentSrc)")
        assert await page.evaluate("document.querySelectorAll('table')[0].tBodies[0].rows.length") == 4
        text = await page.evaluate("document.body.innerText")
        assert "its cluster ended with exit code 2" in text
        for width in (1280, 400):
            await page.look(width, 900, dark=True)
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        await page.until("document.images[0].currentSrc != window.light && document.images[0].naturalWidth > 0")
        assert page.messages == [], "no error, and nothing that the policy forbids"


def test_what_an_endpoint_does_not_answer_is_a_failure_of_the_cell(place: Cluster) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (place.directory / "sweep.yaml").write_text(f"variants: [{{name: theirs, url: '{url}'}}]\nrequest_rates: [5]\n")
    done = place.run("bench", "sweep", "sweep.yaml", "--dir", "out")
    assert done.returncode == 1, done.stderr
    assert f"theirs, r5: 5 req/s: bench serve ended with 1: {url}" in done.stderr
    failure = json.loads((place.directory / "out" / "theirs" / "r5" / "failure.json").read_text())
    assert "refused" in failure["reason"]
    assert not (place.directory / "out" / "theirs" / "r5" / "report.json").exists()


def test_what_is_tied_to_a_process_ends_with_it() -> None:
    code = "import subprocess, sys; from trtdisagg.bench.tied import tied; subprocess.run(tied(sys.argv[1:]))"
    mark = [sys.executable, "-c", "print('there', flush=True); import time; time.sleep(60)"]
    with subprocess.Popen([sys.executable, "-c", code, *mark], stdout=subprocess.PIPE, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"there\n"
        parent.kill()
        assert parent.stdout.read() == b"", "nobody has it open any more"
