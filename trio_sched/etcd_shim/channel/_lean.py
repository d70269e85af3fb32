"""h2's settings in fewer bytes.

h2 keeps each setting's values, the one that holds and those that are proposed, in
a deque of its own, of 760 bytes, and two dozen of them for each connection. There
is hardly ever more than one value. So here they are lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from h2.settings import ChangedSetting, SettingCodes, Settings

__all__ = ["LeanSettings"]


class LeanSettings(Settings):
    """`Settings` that keep their values in lists.

    Args:
        client: whether they are a client's.
        values: those that differ from HTTP/2's defaults; they are not checked.
    """

    def __init__(self, *, client: bool, values: Mapping[SettingCodes, int]) -> None:
        self._client = client
        self._settings: dict[SettingCodes | int, Any] = {
            SettingCodes.HEADER_TABLE_SIZE: [4096],
            SettingCodes.ENABLE_PUSH: [int(client)],
            SettingCodes.INITIAL_WINDOW_SIZE: [65535],
            SettingCodes.MAX_FRAME_SIZE: [16384],
            SettingCodes.ENABLE_CONNECT_PROTOCOL: [0],
        }
        for key, value in values.items():
            self._settings[key] = [value]

    def current(self, key: SettingCodes) -> int:
        """Return the value that holds, of a setting that has one; as ``settings[key]``."""
        value: int = self._settings[key][0]
        return value

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        self._settings.setdefault(key, [None])
        super().__setitem__(key, value)

    def acknowledge(self) -> dict[SettingCodes | int, ChangedSetting]:
        """Let the next value of each setting that has one hold; return what changed."""
        changed: dict[SettingCodes | int, ChangedSetting] = {}
        for key, values in self._settings.items():
            if len(values) > 1:
                old = values.pop(0)
                changed[key] = ChangedSetting(key, old, values[0])
        return changed
