"""Files that the proxy reads or writes: found, and looked at before anything is started."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from trtdisagg.config.api_keys import read_api_keys
from trtdisagg.config.proxy_keys import ProxyConfig, TlsConfig
from trtdisagg.errors import ConfigError


def with_checked_files(config: ProxyConfig, directory: Path) -> ProxyConfig:
    """
    :param directory: what its paths are relative to.
    :raises ConfigError: a file is not there, or the API keys do not hold together.
    """
    if config.api_keys_file is not None:
        path = _whole(config.api_keys_file, directory)
        read_api_keys(path)
        config = replace(config, api_keys_file=str(path))
    if config.tls is not None:
        config = replace(config, tls=_checked(config.tls, directory))
    if config.access_log not in (None, "off", "stderr"):
        config = replace(config, access_log=str(_whole(config.access_log, directory)))
    return config


def _checked(tls: TlsConfig, directory: Path) -> TlsConfig:
    files = {key: _whole(getattr(tls, key), directory) for key in ("cert_file", "key_file")}
    for key, path in files.items():
        if not path.is_file():
            raise ConfigError(f"proxy.tls.{key}: there is no file {path}")
    return replace(tls, **{key: str(path) for key, path in files.items()})


def _whole(path: str, directory: Path) -> Path:
    return (directory / Path(path).expanduser()).absolute()
