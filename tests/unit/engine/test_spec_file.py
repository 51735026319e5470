"""What an engine says of a spec file that it cannot start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.engine.__main__ import _read_spec
from trtdisagg.errors import ConfigError


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        _read_spec(tmp_path / "nope")
    assert e.value.message == f"the spec file {tmp_path}/nope cannot be read: No such file or directory"


@pytest.mark.parametrize("text", ["", "model: x", "{}", '{"cluster": 1}'])
def test_no_spec(tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not one that the agent wrote: "):
        _read_spec(file)
