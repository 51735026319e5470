"""A cluster file that was read and written again means the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.load import load
from trtdisagg.config.written import written

SWEEP = Path(__file__).parents[3] / "examples" / "sweep.yaml"
EXAMPLES = sorted(set((Path(__file__).parents[3] / "examples").glob("*.yaml")) - {SWEEP})


def again(tmp_path: Path, text: str) -> Path:
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "cluster.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_it_means_the_same(tmp_path: Path, file: Path) -> None:
    before = load(file, env={})
    assert load(again(tmp_path, written(before)), env={}).cluster == before.cluster


def test_what_was_given_beside_it_is_in_it_and_paths_are_whole(tmp_path: Path) -> None:
    (tmp_path / "worker.yaml").write_text("max_batch_size: 8\n")
    (tmp_path / "model").mkdir()
    base = tmp_path / "cluster.yaml"
    base.write_text(
        "model: ./model\nsecret_file: s\nproxy: {access_log: log, tls: {cert_file: c, key_file: ~/k}}\n"
        "context_servers: {extra_llm_api_options: worker.yaml}\ngeneration_servers: {}\n"
    )
    loaded = load(base, ["context_servers.num_instances=3", "port=0"], env={})
    text = written(loaded, "two\nlines")
    assert text.startswith("# two\n# lines\n")
    cluster = load(again(tmp_path, text), env={}).cluster
    assert cluster.context_servers
    assert (cluster.port, cluster.context_servers.num_instances, cluster.context_servers.max_batch_size) == (0, 3, 8)
    assert cluster.model == str(tmp_path / "model")
    assert cluster.secret_file == str(tmp_path / "s")
    assert cluster.proxy.access_log == str(tmp_path / "log")
    assert cluster.proxy.tls
    assert (cluster.proxy.tls.cert_file, cluster.proxy.tls.key_file) == (str(tmp_path / "c"), str(Path.home() / "k"))
