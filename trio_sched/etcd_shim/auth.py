"""Users, roles and permissions: who may read and write what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast

from trio_sched._support.arguments import check_choice, check_instance, check_text
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import AuthStub
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim.kv import Key, prefix_range, to_bytes

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim.channel import Channel

__all__ = ["Auth", "AuthStatus", "Permission"]

PermissionType: TypeAlias = Literal["read", "write", "readwrite"]

_TYPES: Final = {
    "read": pb.Permission.READ,
    "write": pb.Permission.WRITE,
    "readwrite": pb.Permission.READWRITE,
}
_NAMES: Final[dict[int, PermissionType]] = {
    pb.Permission.READ: "read",
    pb.Permission.WRITE: "write",
    pb.Permission.READWRITE: "readwrite",
}


@dataclass(frozen=True, slots=True)
class AuthStatus:
    """Whether etcd asks who its clients are.

    Attributes:
        enabled: whether it does.
        revision: of users and roles; each change makes a new one.
    """

    enabled: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Permission:
    """What a role may do with some keys.

    Args:
        type: ``read``, ``write`` or ``readwrite``.
        key: the key, or the first of the range.
        range_end: the first key behind the range; nothing for one key.
    """

    type: PermissionType
    key: Key
    range_end: Key = b""

    @classmethod
    def prefix(cls, type: PermissionType, prefix: Key) -> Self:  # noqa: A002 # the field's name
        """Return one for all keys that start with `prefix`."""
        return cls(type, *prefix_range(prefix))

    def encode(self) -> pb.Permission:
        """Return the message for it."""
        check_choice("type", self.type, _TYPES)
        key, range_end = to_bytes(self.key), to_bytes(self.range_end)
        return pb.Permission(type=_TYPES[self.type], key=key, range_end=range_end)

    @classmethod
    def decode(cls, permission: pb.Permission) -> Self:
        """Return the value for a message."""
        return cls(_NAMES[permission.type], permission.key, permission.range_end)


class Auth:
    """Calls about users and roles: `Client.auth`. The names are etcdctl's.

    They take a client whose user has the role ``root``, once authentication is enabled. Changes are
    not made again after a lost answer. No password is in an error or a repr.

    Raises:
        FailedPrecondition: out of each: a user or role is there already, or is not there.
        PermissionDenied: this user may not.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = AuthStub(cast("grpclib.client.Channel", channel))

    async def _change(self, method: Callable[[Any], Awaitable[Any]], request: object) -> None:
        await call(self._channel, method, request, repeatable=False)

    async def _ask(self, method: Callable[[Any], Awaitable[Any]], request: object) -> Any:
        return await call(self._channel, method, request, repeatable=True)

    async def enable(self) -> None:
        """Have etcd ask who its clients are; it needs a user ``root`` with the role ``root``."""
        await self._change(self._stub.AuthEnable, pb.AuthEmptyRequest())

    async def disable(self) -> None:
        """Have it not ask."""
        await self._change(self._stub.AuthDisable, pb.AuthEmptyRequest())

    async def status(self) -> AuthStatus:
        """Return whether it asks.

        Raises:
            Unimplemented: etcd is older than 3.5.
        """
        answer = await self._ask(self._stub.AuthStatus, pb.AuthEmptyRequest())
        return AuthStatus(answer.enabled, answer.auth_revision)

    async def user_add(self, user: str, password: str | None) -> None:
        """Add a user; without a password it is known by a certificate only."""
        request = pb.AuthUserAddRequest(name=_name("user", user))
        if password is None:
            request.options.no_password = True
        else:
            request.password = check_text("password", password, least=1)
        await self._change(self._stub.UserAdd, request)

    async def user_delete(self, user: str) -> None:
        """Delete a user."""
        await self._change(self._stub.UserDelete, pb.AuthNameRequest(name=_name("user", user)))

    async def user_get(self, user: str) -> tuple[str, ...]:
        """Return the roles of a user."""
        request = pb.AuthNameRequest(name=_name("user", user))
        return tuple((await self._ask(self._stub.UserGet, request)).names)

    async def user_list(self) -> tuple[str, ...]:
        """Return all users."""
        return tuple((await self._ask(self._stub.UserList, pb.AuthEmptyRequest())).names)

    async def user_passwd(self, user: str, password: str) -> None:
        """Give a user another password."""
        request = pb.AuthUserChangePasswordRequest(
            name=_name("user", user), password=check_text("password", password, least=1)
        )
        await self._change(self._stub.UserChangePassword, request)

    async def user_grant_role(self, user: str, role: str) -> None:
        """Give a user a role."""
        request = pb.AuthUserRoleRequest(user=_name("user", user), role=_name("role", role))
        await self._change(self._stub.UserGrantRole, request)

    async def user_revoke_role(self, user: str, role: str) -> None:
        """Take a role away from a user."""
        request = pb.AuthUserRoleRequest(user=_name("user", user), role=_name("role", role))
        await self._change(self._stub.UserRevokeRole, request)

    async def role_add(self, role: str) -> None:
        """Add a role, which may do nothing yet."""
        await self._change(self._stub.RoleAdd, pb.AuthNameRequest(name=_name("role", role)))

    async def role_delete(self, role: str) -> None:
        """Delete a role, and take it away from all users."""
        await self._change(self._stub.RoleDelete, pb.AuthNameRequest(name=_name("role", role)))

    async def role_get(self, role: str) -> tuple[Permission, ...]:
        """Return what a role may do."""
        request = pb.AuthNameRequest(name=_name("role", role))
        answer = await self._ask(self._stub.RoleGet, request)
        return tuple(Permission.decode(each) for each in answer.permissions)

    async def role_list(self) -> tuple[str, ...]:
        """Return all roles."""
        return tuple((await self._ask(self._stub.RoleList, pb.AuthEmptyRequest())).names)

    async def role_grant_permission(self, role: str, permission: Permission) -> None:
        """Let a role do more."""
        check_instance("permission", permission, Permission, "a Permission")
        request = pb.AuthRoleGrantPermissionRequest(
            name=_name("role", role), permission=permission.encode()
        )
        await self._change(self._stub.RoleGrantPermission, request)

    async def role_revoke_permission(self, role: str, key: Key, range_end: Key = b"") -> None:
        """Let a role do nothing any more with keys that a permission of it names just so."""
        request = pb.AuthRoleRevokePermissionRequest(
            role=_name("role", role), key=to_bytes(key), range_end=to_bytes(range_end)
        )
        await self._change(self._stub.RoleRevokePermission, request)


def _name(what: str, name: str) -> str:
    return check_text(what, name, least=1)
