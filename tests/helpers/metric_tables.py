"""What proxy and servers export, as lines of the tables in docs/observability.md."""

from __future__ import annotations

from helpers.proxy_page import full_page
from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.engine.http.metrics import Metrics
from trtdisagg.protocol.stats import Stats


def proxy_text() -> str:
    """The page of a proxy on which everything has happened once."""
    return full_page().text()


def engine_text() -> str:
    """The same of a server."""
    engine = Metrics(model="m", server="context-0")
    engine.finished("stop", queue_s=0.01, first_s=0.1, whole_s=1.0, num_tokens=4)
    return engine.render(Stats(), "context").decode()


def proxy_rows() -> list[str]:
    return _rows(proxy_text())


def engine_rows() -> list[str]:
    return _rows(engine_text())


def _rows(page: str) -> list[str]:
    """Those of the library about the process itself are left out, and when a series began."""
    rows = []
    for family in text_string_to_metric_families(page):
        if family.name.startswith("trt") and not family.name.endswith("_created"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            rows.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return rows
