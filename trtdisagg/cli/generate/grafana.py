"""`trtdisagg generate grafana`: the dashboard as a file that Grafana imports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from trtdisagg.cli.generate.panels import ROWS, Panel

_SCHEMA_VERSION = 39
"""Of Grafana 10.4; a newer one converts it."""
_NUM_COLUMNS = 24
_PANELS_IN_A_ROW = 3
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}

_HELP = """\
Prometheus needs to be told where the series come from. Where the servers are, the proxy tells it; they answer only \
who knows the cluster's secret (`secret_file:`), and so does the proxy where it has API keys.

```yaml
scrape_configs:
  - job_name: trtdisagg
    static_configs: [{targets: ["localhost:8000"]}]
  - job_name: trtdisagg-servers
    authorization: {credentials_file: /etc/trtdisagg/secret}
    http_sd_configs: [{url: "http://localhost:8000/metrics/targets"}]
```
"""


@click.command()
def grafana() -> None:
    """Print a Grafana dashboard (import it as JSON) of what proxy and servers export at /metrics."""
    click.echo(msgspec.json.format(msgspec.json.encode(dashboard()), indent=2).decode())


def dashboard() -> dict[str, Any]:
    """As Grafana's import takes it."""
    return {
        "uid": "trtdisagg",
        "title": "trtdisagg",
        "tags": ["trtdisagg", "llm"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_source_variable(), _model_variable()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), start=1)],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _model_variable() -> dict[str, Any]:
    query = "label_values(trtdisagg_proxy_requests_total, model)"
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "model"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    """All panels with their places: each row is a line for its title, and as many lines of panels as it needs."""
    y = 0
    for row in ROWS:
        yield {"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _place(0, y, height=1)}
        y += 1
        for start in range(0, len(row.panels), _PANELS_IN_A_ROW):
            for column, panel in enumerate(row.panels[start : start + _PANELS_IN_A_ROW]):
                yield {**_chart(panel), "gridPos": _place(column, y, height=_HEIGHT, num_columns=_PANELS_IN_A_ROW)}
            y += _HEIGHT
    yield {
        "type": "text",
        "title": "If there is no data",
        "options": {"mode": "markdown", "content": _HELP},
        "gridPos": _place(0, y, height=_HEIGHT),
    }


def _place(column: int, y: int, *, height: int, num_columns: int = 1) -> dict[str, int]:
    width = _NUM_COLUMNS // num_columns
    return {"x": column * width, "y": y, "w": width, "h": height}


def _chart(panel: Panel) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": query.expression, "legendFormat": query.legend}
            for i, query in enumerate(panel.queries)
        ],
    }
