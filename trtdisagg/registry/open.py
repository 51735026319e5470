"""Which store a `cluster_uri` means, and the registrar that goes with it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from pathlib import Path

from trtdisagg.config.uri import parse_uri
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import MetadataSpec, RegistrySpec
from trtdisagg.registry.etcd import EtcdStore, list_entries
from trtdisagg.registry.etcd_gateway import Access, Gateway
from trtdisagg.registry.http_store import About, HttpStore
from trtdisagg.registry.records import entries_of, metadata_entries_of, prefix_of
from trtdisagg.registry.registrar import Registrar
from trtdisagg.registry.store import Store


def open_registrar(
    spec: RegistrySpec,
    *,
    secret_file: str | None = None,
    is_for_others: Callable[[Member], bool] = lambda _: True,
    on_problem: Callable[[str], None] = lambda _: None,
) -> Registrar:
    """
    :param is_for_others: whether others can reach a member; who is not is not registered.
    :param secret_file: the cluster's, for a store inside its proxy.
    :raises ConfigError, StartupError: a file that is needed cannot be used.
    """
    return Registrar(
        open_store(spec, secret_file),
        functools.partial(entries_of, cluster_name=spec.cluster_name),
        heartbeat_s=spec.heartbeat_s,
        inactive_s=spec.inactive_s,
        is_for_others=is_for_others,
        on_problem=on_problem,
    )


def open_metadata_registrar(spec: MetadataSpec, on_problem: Callable[[str], None] = lambda _: None) -> Registrar:
    """The same in the older way; the keys are under a lease, so that nobody has to delete them by hand."""
    lease = RegistrySpec(uri=spec.uri)
    return Registrar(
        EtcdStore(open_gateway(lease)),
        metadata_entries_of,
        heartbeat_s=lease.heartbeat_s,
        inactive_s=lease.inactive_s,
        on_problem=on_problem,
    )


async def ask_about(spec: RegistrySpec, secret_file: str | None) -> About | None:
    """See whether a registry can be used, before anything is started for it.

    :returns: what a proxy says of its own; None: it is etcd.
    :raises RegistryError: it cannot be reached, or refuses.
    """
    uri = parse_uri(spec.uri)
    if uri.kind == "proxy":
        store = _proxy_store(uri.endpoints[0], spec, secret_file)
        try:
            return await store.about()
        finally:
            await store.close()
    gateway = open_gateway(spec)
    try:
        await list_entries(gateway, prefix_of(spec.cluster_name))
    finally:
        await gateway.close()
    return None


def open_store(spec: RegistrySpec, secret_file: str | None = None) -> Store:
    uri = parse_uri(spec.uri)
    if uri.kind == "proxy":
        return _proxy_store(uri.endpoints[0], spec, secret_file)
    return EtcdStore(open_gateway(spec))


def _proxy_store(url: str, spec: RegistrySpec, secret_file: str | None) -> HttpStore:
    return HttpStore(url, read_secret(secret_file), _trusted(spec.ca_file) if spec.ca_file else None)


def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"The ca_file {ca_file} cannot be used: {e}") from None


def open_gateway(spec: RegistrySpec) -> Gateway:
    access = Access(
        user=spec.user,
        password_file=spec.password_file,
        ca_file=spec.ca_file,
        cert_file=spec.cert_file,
        key_file=spec.key_file,
    )
    return Gateway(parse_uri(spec.uri).endpoints, access)


def read_secret(path: str | None) -> str | None:
    """
    :raises StartupError: the file cannot be read, or nothing is in it.
    """
    if path is None:
        return None
    try:
        secret = Path(path).read_text().strip()
    except OSError as e:
        raise StartupError(f"cannot read the secret file {path}: {e.strerror or e}") from e
    except UnicodeDecodeError:  # which tells bytes of it
        raise StartupError(f"the secret file {path} is not UTF-8") from None
    if not secret:  # which everybody knows
        raise StartupError(f"the secret file {path} is empty")
    return secret
