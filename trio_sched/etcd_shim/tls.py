"""TLS contexts that remember the files that they were made of."""

from __future__ import annotations

import os
import ssl
from types import NoneType
from typing import Self

from trio_sched._support.arguments import check_instance

__all__ = ["TLSContext", "check_context", "tls_context"]


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
        TypeError: an argument is not the name of a file.
        ValueError: there is a key, but no certificate.
        OSError: a file cannot be read, or (`ssl.SSLError`) understood.
    """
    for name, file in (("cacert", cacert), ("cert", cert), ("key", key)):
        check_instance(name, file, (str, os.PathLike), "the name of a file")
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


def check_context(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Return a context that a client can use, or None.

    Raises:
        TypeError: it is something else.
        ValueError: it is one for servers.
    """
    check_instance("ssl_context", context, (ssl.SSLContext, NoneType), "an ssl.SSLContext or None")
    if context is not None and context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context must be one for clients, such as tls_context() makes")
    return context


def _absolute(file: str | os.PathLike[str]) -> str:
    return os.path.abspath(file) if file else ""  # noqa: PTH100 # no Path for nothing
