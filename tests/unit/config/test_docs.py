"""The page on the cluster file is current and complete."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from trtdisagg.config import docs, key_types, schema, shape
from trtdisagg.config.upstream import TABLE, NotThereYet

PAGE = Path(__file__).parents[3] / "docs" / "cluster-file.md"
STRUCTS = key_types.Section.__subclasses__()


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == docs.markdown(), "run: python -m trtdisagg.config.docs > docs/cluster-file.md"


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_every_key_is_explained(struct: type[msgspec.Struct]) -> None:
    documented = docs.keys(struct)
    assert [key.name for key in documented] == list(shape.keys(struct))
    assert [key.name for key in documented if not key.doc] == []


def test_defaults_are_the_schemas() -> None:
    by_name = {key.name: key for key in docs.keys(schema.ClusterFile)}
    assert by_name["port"].default == "8000"
    assert {key.name: key.default for key in docs.keys(schema.ModelEntry)}["name"] is None


def test_the_table_repeats_a_key_of_the_schema_only_to_refuse_values() -> None:
    for struct, entries in TABLE.items():
        for key in entries.keys() & set(shape.keys(struct)):
            assert isinstance(entries[key], NotThereYet), key
