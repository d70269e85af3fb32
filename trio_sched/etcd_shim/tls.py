"""TLS contexts that remember the files that they were made of."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Self

from trio_sched._support.arguments import check_instance, check_text

__all__ = ["TLSContext", "check_context", "tls_context"]


class TLSContext(ssl.SSLContext):
    """An `ssl.SSLContext` for a client, made by `tls_context`.

    Attributes:
        cacert: file of the authorities to trust; empty for the system's.
        cert: file of our certificate, or empty.
        key: file of its key; empty if it is in `cert`.
        key_encrypted: whether the key takes a password.
    """

    cacert: str = ""
    cert: str = ""
    key: str = ""
    key_encrypted: bool = False

    def __new__(cls) -> Self:
        """Make one that checks certificates and host names."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)


def tls_context(
    *,
    cacert: str | os.PathLike[str] = "",
    cert: str | os.PathLike[str] = "",
    key: str | os.PathLike[str] = "",
    key_password: str | None = None,
) -> TLSContext:
    """Return a context for ``open_client(ssl_context=…)``, from files in PEM.

    Another process can be sent the names of these files, and connect in the same
    way: that is what a reaper does.

    Args:
        cacert: the authorities to trust; nothing for the system's.
        cert: our certificate, for mutual TLS.
        key: its key; nothing if it is in `cert`.
        key_password: what the key is encrypted with; None if it is not. A reaper cannot use such a
            key, as it is sent the names of files only.

    Raises:
        TypeError: an argument is not the name of a file.
        ValueError: there is a key, but no certificate.
        OSError: a file cannot be read, or (`ssl.SSLError`) understood; a note names it.
    """
    for name, file in (("cacert", cacert), ("cert", cert), ("key", key)):
        check_instance(name, file, (str, os.PathLike), "the name of a file")
    if key and not cert:
        raise ValueError("a key needs a certificate that it belongs to")
    if key_password is not None:
        check_text("key_password", key_password)
    context = TLSContext()
    context.key_encrypted = key_password is not None
    context.cacert, context.cert, context.key = map(_absolute, (cacert, cert, key))
    if cacert:
        with _naming(context.cacert):
            context.load_verify_locations(context.cacert)
    else:
        context.load_default_certs()
    if cert:
        with _naming(context.cert, context.key):
            # Without a password of ours OpenSSL would ask at the terminal for one.
            chain, private = context.cert, context.key or None
            context.load_cert_chain(chain, private, password=lambda: key_password or "")
    return context


@contextmanager
def _naming(*files: str) -> Iterator[None]:
    """Say in an error which files it is about, as Python's `ssl` does not."""
    try:
        yield
    except OSError as exc:
        exc.add_note(f"while {' and '.join(file for file in files if file)} was read")
        raise


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
