"""YAML with places: what is refused, and that every value knows its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.located import MAX_FILE_BYTES, Located, read
from trtdisagg.errors import ConfigError


def parse(tmp_path: Path, text: str | bytes) -> Located:
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(file, "c.yaml")


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    root = parse(tmp_path, "a: 1\nb:\n  c:\n  - x\n  - {d: true}\n")
    assert root.plain() == {"a": 1, "b": {"c": ["x", {"d": True}]}}
    for path, line in {"a": 1, "b": 2, "b.c": 3, "b.c[0]": 4, "b.c[1]": 5, "b.c[1].d": 5}.items():
        assert root.at(path).place.line == line, path


def test_a_path_that_leads_nowhere_ends_at_the_innermost_value(tmp_path: Path) -> None:
    root = parse(tmp_path, "a:\n  b: [1]\n")
    assert root.at("a.c.d").place.line == 1
    assert root.at("a.b[7]").value is root.children["a"].children["b"].value


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = "base: &b {x: 1, y: 1}\nmore: &m {y: 2, z: 2}\nall:\n  x: 0\n  <<: [*b, *m]\n"
    assert parse(tmp_path, text).plain()["all"] == {"x": 0, "y": 1, "z": 2}


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n"])
def test_nothing_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    assert parse(tmp_path, text).plain() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: a: the key stands here twice, first in line 1"),
        ("a: 1\nb: [1\nc: 2\n", "c.yaml:3: not valid YAML: "),
        ("a: 1\n\tb: 2\n", "c.yaml:2: not valid YAML: found character '\\t'"),
        ("a: *nobody\n", "c.yaml:1: not valid YAML: found undefined alias 'nobody'"),
        ("- a\n- b\n", "c.yaml:1: expected a mapping of keys to values, got array"),
        ("a: &x [*x]\n", "c.yaml:1: the alias refers to what it is part of"),
        ("? [a]\n: 1\n", "c.yaml:1: a key must be a word"),
        ("<<: 3\n", "c.yaml:1: <<: expected a mapping, got int"),
        ("a:\n  b: 2026-13-01\n", "c.yaml:2: 2026-13-01: month must be in 1..12"),
        ("a: !!set {x}\n", "c.yaml:1: the tag set has no meaning here"),
        ("a: !!python/object/apply:os.system ['true']\n", "c.yaml:1: the tag python/object/apply:os.system has no"),
        ("a: !!python/name:os.system\n", "c.yaml:1: not valid YAML: could not determine a constructor"),
        ("[" * 100_000, "c.yaml: nested too deeply"),
        (b"a: \x01\n", "c.yaml: not valid YAML: unacceptable character"),
        ("a" * (MAX_FILE_BYTES + 1), "c.yaml: longer than"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, text)
    assert caught.value.message.startswith(message)


def test_aliases_cannot_multiply_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        parse(tmp_path, "\n".join(lines))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)
