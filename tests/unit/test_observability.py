"""docs/observability.md against the code: every series, every field of the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.metric_tables import engine_rows, proxy_rows

from trtdisagg.proxy.records.access_log import Line

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


@pytest.mark.anyio
async def test_every_series_is_in_the_page_and_no_other() -> None:
    rows = [*proxy_rows(), *engine_rows()]
    there = re.findall(r"^\| `trt(?:disagg|llm)_.*$", PAGE, re.MULTILINE)
    assert there == rows


def test_every_field_of_the_access_log_is_in_the_page() -> None:
    log = PAGE.partition("## The access log")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", log, re.MULTILINE)) == Line.__struct_fields__
