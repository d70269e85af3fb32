"""Release slots, renew and revoke leases with the standard library alone: gRPC, written by hand.

Theory of operation
-------------------
A unary call in gRPC is one HTTP/2 request: frames of 9 bytes of head and a body. We send headers
that are never compressed, so there is no table to keep, and read nothing of the answer but its
DATA: etcd answers a call that it carried out with a message, and a refused one with none. So
neither HPACK nor a status has to be understood. A renewal is a stream of requests; one of a single
request looks the same. What was refused is tried again for a while by the caller; a lease that is
not there costs a few tries.

Why not etcd's JSON gateway, which would be shorter still: it can be switched off, and moved to
another port (``--listen-client-http-urls``), etcd's proxy has none, and it does not know users by
their certificates. Where the session could be granted, this call works, too.
"""

from __future__ import annotations

import struct

from trio_sched.reaper.helper.light import sockets

TYPE_CHECKING = False  # typing's own costs as much as all the rest
if TYPE_CHECKING:
    import socket

__all__ = ["Refused", "Target", "give_back", "renew_leases"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_PADDED = 8
_RECEIVE_SIZE = 65536


class Refused(Exception):
    """The member answered, but not with what was asked for; or it does not speak gRPC."""


class Target:
    """Where to connect to, and how.

    Args:
        scheme: ``http``, ``https`` or ``unix``.
        host: name or address; for ``unix``, the socket's path.
        port: of TCP.
        cacert: file of the authorities to trust; empty for the system's.
        cert: file of our certificate, or empty.
        key: file of its key; empty if it is in `cert`.
    """

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        cacert: str = "",
        cert: str = "",
        key: str = "",
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.cacert = cacert
        self.cert = cert
        self.key = key


def give_back(
    slots: dict[bytes, tuple[bytes, bytes]],
    target: Target,
    user: str,
    password: str,
    leases: list[int],
    timeout: float,
) -> list[int]:
    """Release slots, then revoke leases, at one member; return those that it did not revoke.

    Args:
        slots: their keys; to each the key of its mark, and what that has to hold. What was
            asked for is taken out: if it was refused, the mark tells of it.
        target: the member.
        user: name to authenticate by; empty if there is none.
        password: goes with it.
        leases: their ids.
        timeout: seconds that the member may be silent.

    Raises:
        OSError: it cannot be reached, or is silent.
        Refused: it is no etcd.
    """
    call = _Connection(target, timeout)
    try:
        token = call.authenticate(user, password) if user else ""
        for slot, (mark_key, mark) in list(slots.items()):
            call.release(slot, mark_key, mark, token)
            del slots[slot]
        return [lease for lease in leases if not call.revoke(lease, token)]
    finally:
        call.close()


def renew_leases(
    target: Target, user: str, password: str, leases: list[int], timeout: float
) -> list[int]:
    """Renew leases at one member, as `give_back` revokes them; return those that it did not."""
    call = _Connection(target, timeout)
    try:
        token = call.authenticate(user, password) if user else ""
        return [lease for lease in leases if not call.renew(lease, token)]
    finally:
        call.close()


class _Connection:
    """One HTTP/2 connection, for one call after the other."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._stream = 1
        self._target = target
        self._socket = _connect(target, timeout)
        self._input = b""
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))

    def close(self) -> None:
        self._socket.close()

    def authenticate(self, user: str, password: str) -> str:
        """Return a token; an empty one if etcd does not ask who we are."""
        request = _field(1, user.encode()) + _field(2, password.encode())
        answer = self._call("/etcdserverpb.Auth/Authenticate", request, "")
        return "" if answer is None else _text_field(answer, 2)

    def revoke(self, lease: int, token: str) -> bool:
        """Revoke a lease; False if etcd refuses."""
        return self._call("/etcdserverpb.Lease/LeaseRevoke", _lease(lease), token) is not None

    def renew(self, lease: int, token: str) -> bool:
        """Renew a lease; False if etcd refuses."""
        return self._call("/etcdserverpb.Lease/LeaseKeepAlive", _lease(lease), token) is not None

    def release(self, slot: bytes, mark_key: bytes, mark: bytes, token: str) -> None:
        """Delete a slot and its mark, if that is what it was."""
        # Compare: target VALUE (2: 3), key (3), value (7); its result EQUAL is 0, left out.
        compare = b"\x10\x03" + _field(3, mark_key) + _field(7, mark)
        # RequestOp: request_delete_range (3), a DeleteRangeRequest: key (1).
        deletes = b"".join(_field(2, _field(3, _field(1, key))) for key in (slot, mark_key))
        request = _field(1, compare) + deletes
        self._call("/etcdserverpb.KV/Txn", request, token)

    def _call(self, path: str, message: bytes, token: str) -> bytes | None:
        """Carry out a call; return the message of the answer, None if there is none."""
        stream, self._stream = self._stream, self._stream + 2
        headers = _header_block(self._target, path, token)
        body = b"\0" + struct.pack(">I", len(message)) + message
        self._socket.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, headers)
            + _frame(_DATA, _END_STREAM, stream, body)
        )
        answer = self._answer(stream)
        return answer[5:] if len(answer) >= 5 else None

    def _answer(self, stream: int) -> bytes:
        """Return the body of the answer on a stream."""
        body = b""
        while True:
            kind, flags, where, payload = self._read_frame()
            if kind == _GOAWAY or (kind == _RST_STREAM and where == stream):
                raise Refused("the member hung up")
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                self._socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if where != stream:
                continue
            if kind == _DATA:
                body += payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
            if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
                return body

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        high, low, kind, flags, stream = struct.unpack(">BHBBI", self._read(9))
        return kind, flags, stream & 0x7FFF_FFFF, self._read(high << 16 | low)

    def _read(self, size: int) -> bytes:
        while len(self._input) < size:
            data = self._socket.recv(_RECEIVE_SIZE)
            if not data:
                raise Refused("the member hung up")
            self._input += data
        found, self._input = self._input[:size], self._input[size:]
        return found


def _connect(target: Target, timeout: float) -> socket.socket:
    if target.scheme == "unix":
        return _connect_to(sockets.AF_UNIX, target.host, timeout)
    plain = _connect_to_any(target, timeout)
    return _secured(plain, target) if target.scheme == "https" else plain


def _connect_to_any(target: Target, timeout: float) -> socket.socket:
    """Connect to the first address of a name that lets us in."""
    error: OSError | None = None
    for family, _, _, _, address in sockets.getaddrinfo(
        target.host, target.port, 0, sockets.SOCK_STREAM
    ):
        try:
            return _connect_to(family, address, timeout)
        except OSError as exc:
            error = exc
    raise error or OSError(f"{target.host} has no address")


def _connect_to(family: int, address: object, timeout: float) -> socket.socket:
    fresh = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        fresh.settimeout(timeout)
        fresh.connect(address)  # type: ignore[arg-type] # it is of that family
    except OSError:
        fresh.close()
        raise
    return fresh


def _secured(plain: socket.socket, target: Target) -> socket.socket:
    import socket  # noqa: PLC0415 # 5 MB that only https needs, with the next
    import ssl  # noqa: PLC0415

    context = ssl.create_default_context(cafile=target.cacert or None)
    if target.cert:
        # Without a password of ours OpenSSL would ask at the terminal for one.
        context.load_cert_chain(target.cert, target.key or None, password=lambda: "")
    context.set_alpn_protocols(["h2"])
    timeout = plain.gettimeout()
    whole = socket.socket(fileno=plain.detach())  # as `ssl` takes no other
    whole.settimeout(timeout)
    try:
        return context.wrap_socket(whole, server_hostname=target.host)
    except OSError:
        whole.close()
        raise


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _header_block(target: Target, path: str, token: str) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    fields = [
        (":method", "POST"),
        (":scheme", "https" if target.scheme == "https" else "http"),
        (":path", path),
        (":authority", "localhost" if target.scheme == "unix" else f"{host}:{target.port}"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    if token:
        fields.append(("token", token))
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def _lease(lease: int) -> bytes:
    """Return a message whose one field is the id of a lease."""
    return b"\x08" + _varint(lease & 0xFFFF_FFFF_FFFF_FFFF)


def _string(text: str) -> bytes:
    """Encode a string for HPACK, as it is: its length in 7 bits and as many more as it takes."""
    data = text.encode()
    size = len(data)
    return (bytes([size]) if size < 127 else b"\x7f" + _varint(size - 127)) + data


def _varint(number: int) -> bytes:
    """Encode a number in groups of 7 bits: HPACK and protobuf do it alike."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _text_field(message: bytes, wanted: int) -> str:
    """Return a string out of a message of protobuf that holds strings and messages only."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        if tag & 7 != 2:
            raise Refused("the answer is not understood")
        size, position = _read_varint(message, position)
        if tag >> 3 == wanted:
            return message[position : position + size].decode()
        position += size
    return ""


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, position
    raise Refused("the answer is not understood")
