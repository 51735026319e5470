"""What may stand in `slurm:`."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.load import load
from trtdisagg.errors import ConfigError

FILE = "model: m\ncontext_servers: {}\ngeneration_servers: {}\nslurm:\n  "


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("partiton: gpu", "slurm.partiton", "unknown key; did you mean partition?"),
        ('partition: "gpu\\n#SBATCH --x"', "slurm.partition", "letters, digits"),
        ("time: 4:00:00", "slurm.time", "expected str, got int 14400; put it in quotes"),
        ("time: soon", "slurm.time", "'soon': not a time as Slurm writes it"),
        ("gpus_per_node: eight", "slurm.gpus_per_node", "expected a number, or TYPE:NUMBER"),
        ("gpus_per_node: -1", "slurm.gpus_per_node", "expected"),
        ("nodes: 0", "slurm.nodes", "expected int >= 1"),
        ("run_name: a/b", "slurm.run_name", "letters, digits, dot"),
        ("run_name: ..", "slurm.run_name", "letters, digits, dot"),
        ("extra_args: [-N3]", "slurm.extra_args[0]", "in its long form"),
        ("extra_args: [--constraint ib]", "slurm.extra_args[0]", "in its long form"),
        ('extra_args: ["--comment=a\\n#SBATCH --requeue"]', "slurm.extra_args[0]", "in its long form"),
        ("extra_args: [--constraint=ib, --nodes=3]", "slurm.extra_args[1]", "say slurm.nodes"),
        ("extra_args: [--node=3]", "slurm.extra_args[0]", "say slurm.nodes"),
        ("extra_args: [--gres=gpu:1]", "slurm.extra_args[0]", "say slurm.gpus_per_node"),
        ("extra_args: [--requeue]", "slurm.extra_args[0]", "not --requeue: a cluster does not begin again"),
        ("extra_args: [--sig=B:TERM@9]", "slurm.extra_args[0]", "not --signal: supervision.drain_timeout_s"),
        ("env: {A B: c}", "slurm.env.A B", "not a name of a variable"),
        ("env: {HF_TOKEN: x}", "slurm.env.HF_TOKEN", "everybody may see a job's script"),
        ("container: {}", "slurm.container", "missing required field image"),
        ("container: {image: x, mounts: [data]}", "slurm.container.mounts[0]", "expected /HOST/PATH:/PATH/INSIDE"),
        ('container: {image: x, mounts: ["/a:/b,/c:/d"]}', "slurm.container.mounts[0]", "expected /HOST/PATH"),
        ("container: {image: x, workdir: here}", "slurm.container.workdir", "expected an absolute path"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, path: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(FILE + text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml:5: {path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'time: "90"',
        "time: 2-12",
        "gpus_per_node: nvidia_h200.1:8",
        "extra_args: [--exclusive=user, --mem-per-cpu=2G, '--comment=a b', --wait-all-nodes=1, --switches=1@10:00]",
        "env: {TOKENIZERS_PARALLELISM: 'false', UCX_TLS: rc}",
        'container: {image: x, mounts: ["/a b:/c:ro"], workdir: /c}',
    ],
)
def test_what_is_right(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(FILE + text)
    load(tmp_path / "c.yaml")
