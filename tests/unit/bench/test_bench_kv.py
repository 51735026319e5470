"""`trtdisagg bench kv` as it is called: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from trtdisagg.cli.main import cli
from trtdisagg.protocol.bench_kv import KvReport


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", "kv", *map(str, args)])


def test_the_whole_of_it(tmp_path: Path) -> None:
    """The measuring program looks at what arrives, so this moves KV between servers of several ranks, too."""
    file = tmp_path / "report.json"
    args = ["--models", "smollm2", "--layouts", "tp1-tp1,tp1-pp2", "--transports", "local", "--tokens", "40,256"]
    done = call(*args, "--rounds", "1", "--max-mib", "4", "--json", file)
    assert done.exit_code == 0, done.output
    assert "smollm2 TP1->PP2 by local" in done.stderr
    assert "smollm2, local" in done.stdout
    assert "256*" in done.stdout
    assert "*: the first layers only, 4 MiB of KV" in done.stdout
    report = msgspec.json.decode(file.read_bytes(), type=KvReport)
    rows = {(row.layout, row.num_tokens): row for row in report.rows}
    assert len(rows) == len(report.rows) == 4

    whole = rows["TP1->TP1", 40]
    assert (whole.num_layers, whole.bytes) == (30, 2 * 32 * 30 * 3 * 2 * 64 * 2)
    assert whole.ratio_to_same_layout == pytest.approx(1)
    divided = rows["TP1->PP2", 256]
    assert divided.num_layers == 21
    assert divided.bytes == 256 * 21 * 3 * 2 * 64 * 2
    assert divided.descriptors == 8 * 2
    for row in report.rows:
        assert row.way == "local pull"
        assert row.median_ms >= row.latency_ms > 0
        assert row.gb_s == pytest.approx(row.bytes / row.latency_ms / 1e6)
        assert row.ratio_to_memcpy == pytest.approx(row.gb_s / row.memcpy_gb_s)
        assert row.ratio_to_transport == pytest.approx(row.gb_s / row.transport_gb_s)
        assert row.ratio_to_descriptors == pytest.approx(row.gb_s / row.descriptors_gb_s)
        assert (row.first_ms is not None) == (row.num_tokens == 256 or row.num_layers == 30)
    written = json.loads(file.read_bytes())["rows"][0]
    assert {"layout", "transport", "bytes", "gb_s", "ratio_to_memcpy", "ratio_to_transport", "descriptors"} <= set(
        written
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--models", "llama-9b"], "no model 'llama-9b'"),
        (["--transports", "carrier-pigeon"], "no transport 'carrier-pigeon'"),
        (["--tokens", "256,many"], "'many' is not a number"),
        (["--tokens", "0"], "'0' is not a number from 1"),
        (["--layouts", "tp2"], "'tp2' is not a pair of layouts"),
        (["--models", "smollm2", "--layouts", "tp2-tp1"], "smollm2: of 3 KV heads and tensor_parallel_size 2"),
        (["--json", "/nowhere/report.json"], "/nowhere/report.json cannot be written"),
    ],
)
def test_what_cannot_be_measured(args: list[str], words: str) -> None:
    done = call(*args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not done.stdout
