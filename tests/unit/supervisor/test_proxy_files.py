"""Files of the proxy: where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.proxy_keys import ProxyConfig
from trtdisagg.supervisor.proxy_files import with_checked_files


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        (None, None),
        ("off", "off"),
        ("stderr", "stderr"),
        ("logs/access.log", "/clusters/logs/access.log"),
        ("/var/log/a.log", "/var/log/a.log"),
    ],
)
def test_the_access_log_is_beside_the_cluster_file(named: str | None, meant: str | None) -> None:
    assert with_checked_files(ProxyConfig(access_log=named), Path("/clusters")).access_log == meant
