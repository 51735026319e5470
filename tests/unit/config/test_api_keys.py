"""The file of API keys: entries as they are printed, and all that can be wrong with it, named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from trtdisagg.cli.main import cli
from trtdisagg.config.api_keys import digest_of, make_api_key, read_api_keys
from trtdisagg.errors import ConfigError

HASH = "blake2b:" + "ab" * 32


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "keys.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_what_is_printed_is_what_is_read(tmp_path: Path) -> None:
    args = [["alice"], ["bob@example.org", "--requests-per-minute", "60", "--max-in-flight", "8"]]
    results = [CliRunner().invoke(cli, ["generate", "api-key", *each]) for each in args]
    assert [r.exit_code for r in results] == [0, 0]
    keys = read_api_keys(written(tmp_path, "# ours\n" + "".join(r.stdout for r in results)))
    assert [(k.name, k.requests_per_minute, k.max_in_flight) for k in keys] == [
        ("alice", None, None),
        ("bob@example.org", 60, 8),
    ]
    for key, result in zip(keys, results, strict=True):
        shown = result.stderr.split()[-1]
        assert digest_of(shown) == key.digest
        assert shown not in result.stdout


def test_no_key_is_made_twice() -> None:
    made = [make_api_key("x") for _ in range(20)]
    assert len({key for key, _ in made}) == len({entry.hash for _, entry in made}) == 20
    assert all(len(key) >= 43 for key, _ in made)


def test_a_name_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(cli, ["generate", "api-key", "../x"])
    assert result.exit_code == 2
    assert "../x" in result.stderr


@pytest.mark.parametrize("text", ["", "[]", "# nobody yet\n"])
def test_there_may_be_no_keys(tmp_path: Path, text: str) -> None:
    assert read_api_keys(written(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("text", "mode", "about"),
    [
        ("[]", 0o640, "chmod 600"),
        ("- name: x\n", 0o600, "hash"),
        (f"- {{name: x, hash: {HASH}, rpm: 3}}", 0o600, "rpm"),
        (f"- {{name: x, hash: {HASH}, max_in_flight: 0}}", 0o600, "max_in_flight"),
        (f"- {{name: 'a b', hash: {HASH}}}", 0o600, "name"),
        ("- {name: x, hash: sk-abc}", 0o600, "hash"),
        (f"- {{name: x, hash: {HASH}}}\n- {{name: y, hash: {HASH}}}", 0o600, "twice"),
        (f"- {{name: x, hash: {HASH}}}\n- {{name: x, hash: {HASH[:-1]}0}}", 0o600, "the name x stands there twice"),
        ("{", 0o600, "generate api-key"),
        ("hello", 0o600, "generate api-key"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, mode: int, about: str) -> None:
    with pytest.raises(ConfigError, match=r"keys\.yaml") as e:
        read_api_keys(written(tmp_path, text, mode))
    assert about in e.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_api_keys(tmp_path / "none.yaml")


def test_yaml_stays_readable() -> None:
    _, entry = make_api_key("x")
    assert msgspec.yaml.encode([entry]).decode().splitlines() == ["- name: x", f"  hash: {entry.hash}"]
