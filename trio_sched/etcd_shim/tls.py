"""TLS contexts that remember the files that they were made of."""

from __future__ import annotations

import os
import ssl
from typing import Self

__all__ = ["TLSContext", "tls_context"]


class TLSContext(ssl.SSLContext):
    """An `ssl.SSLContext` for a client, made by `tls_context`.

    Attributes:
        cacert: file of the authorities to trust; empty for the system's.
        cert: file of our certificate, or empty.
        key: file of its key; empty if it is in `cert`.
    """

    cacert: str = ""
    cert: str = ""
    key: str = ""

    def __new__(cls) -> Self:
        """Make one that checks certificates and host names."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)


def tls_context(
    *,
    cacert: str | os.PathLike[str] = "",
    cert: str | os.PathLike[str] = "",
    key: str | os.PathLike[str] = "",
) -> TLSContext:
    """Return a context for ``open_client(ssl_context=…)``, from files in PEM.

    Another process can be sent the names of these files, and connect in the same
    way: that is what a reaper does.

    Args:
        cacert: the authorities to trust; nothing for the system's.
        cert: our certificate, for mutual TLS.
        key: its key; nothing if it is in `cert`. It must not be encrypted.

    Raises:
        ValueError: there is a key, but no certificate.
        OSError: a file cannot be read, or (`ssl.SSLError`) understood.
    """
    if key and not cert:
        raise ValueError("a key needs a certificate that it belongs to")
    context = TLSContext()
    context.cacert, context.cert, context.key = map(_absolute, (cacert, cert, key))
    if cacert:
        context.load_verify_locations(context.cacert)
    else:
        context.load_default_certs()
    if cert:
        # Without a password of ours OpenSSL would ask at the terminal for one.
        context.load_cert_chain(context.cert, context.key or None, password=lambda: "")
    return context


def _absolute(file: str | os.PathLike[str]) -> str:
    return os.path.abspath(file) if file else ""  # noqa: PTH100 # no Path for nothing
