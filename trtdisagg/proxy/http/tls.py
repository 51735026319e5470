"""The proxy's certificate (`proxy.tls`). Connections that begin after it was read again get the new one."""

from __future__ import annotations

import ssl

from trtdisagg.errors import StartupError
from trtdisagg.protocol.proxy_spec import TlsSpec


class Tls:
    """
    :raises StartupError: the files cannot be used.
    """

    def __init__(self, spec: TlsSpec) -> None:
        self._spec = spec
        self.context = _context(spec)

    def reload(self) -> None:
        """Read the files again.

        :raises StartupError: they cannot be used; the certificate stays as it was.
        """
        _context(self._spec)  # with files that do not go together, the one in use would be left half changed
        _load(self.context, self._spec)


def _context(spec: TlsSpec) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, spec)
    return context


def _load(context: ssl.SSLContext, spec: TlsSpec) -> None:
    for key, file in (("cert_file", spec.cert_file), ("key_file", spec.key_file)):
        try:
            with open(file, "rb"):
                pass
        except OSError as e:
            raise StartupError(f"proxy.tls.{key} {file} cannot be read: {e.strerror or e}") from None
    try:
        context.load_cert_chain(spec.cert_file, spec.key_file, password=_no_password)
    except _EncryptedError:
        raise StartupError(f"proxy.tls.key_file {spec.key_file} is encrypted; decrypt it") from None
    except ssl.SSLError as e:
        mismatch = e.reason == "KEY_VALUES_MISMATCH"
        why = "the key is not the certificate's" if mismatch else f"not a PEM certificate and its key ({e.reason})"
        raise StartupError(f"proxy.tls: {spec.cert_file} and {spec.key_file}: {why}") from None
    except OSError as e:
        raise StartupError(f"proxy.tls: {spec.cert_file} or {spec.key_file}: {e.strerror or e}") from None


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedError
