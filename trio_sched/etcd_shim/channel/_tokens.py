"""The token of a user: asked for once for all calls, which wait for it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import AuthStub
from trio_sched.etcd_shim.channel._caller import Caller
from trio_sched.etcd_shim.channel._settings import Credentials
from trio_sched.etcd_shim.errors import AuthStoreChanged, FailedPrecondition

if TYPE_CHECKING:
    import grpclib.client

__all__ = ["fetch_token"]

_MAX_ATTEMPTS = 5  # while users and roles are being changed


async def fetch_token(caller: Caller, credentials: Credentials) -> str | None:
    """Return a token; None if etcd does not ask for one.

    Raises:
        AuthenticationFailed: the user or the password is wrong.
        EtcdError: there is no answer.
    """
    stub = AuthStub(cast("grpclib.client.Channel", caller))
    request = pb.AuthenticateRequest(name=credentials.user, password=credentials.password)
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        try:
            return (await stub.Authenticate(request)).token
        except FailedPrecondition:
            return None  # authentication is not enabled
        except AuthStoreChanged:
            if attempt == _MAX_ATTEMPTS:
                raise
    raise AssertionError("not reached")
