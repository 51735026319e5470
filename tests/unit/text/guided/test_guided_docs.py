from __future__ import annotations

import re
from pathlib import Path

import msgspec

from trtdisagg.text.guided.request import guide_of
from trtdisagg.text.tools.format import KNOWN

PAGE = (Path(__file__).parents[4] / "docs" / "guided-decoding.md").read_text()


def test_every_form_on_the_page_means_something() -> None:
    block = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    forms = [msgspec.json.decode(line) for line in block[1].splitlines()]
    assert [form["type"] for form in forms if guide_of(form) is None] == ["text"]
    assert len(forms) == 8


def test_every_way_of_calling_tools_is_on_the_page() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [*KNOWN]
