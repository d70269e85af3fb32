"""What a page shows of all paths below some prefixes: from keys and their changes. Pure.

A path is what has a host, a candidate, a decision or a slot below it. It is decoded anew whenever
one of its keys has changed, and compared with what it was: the differences are its last changes.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from trio_sched.model.keys import PathKeys, check_path
from trio_sched.model.path_state import PathState
from trio_sched.model.stored_decision import StoredKey
from trio_sched.serving.document import document_of

__all__ = ["Board", "path_of"]

Json: TypeAlias = dict[str, Any]

_MAX_CHANGES: Final = 30  # of a path, the newest
_MAX_REMOVED: Final = 1000  # paths that are gone, which pages may still show
_MAX_NAMES: Final = 8  # of hosts that came or went at once
_KEY: Final = re.compile(
    rb"(/.+)/(?:(?:exchange|election|slots|slots\.taken)/.+|scheduled|scheduled\.record|control)",
    re.DOTALL,
)


def path_of(key: bytes) -> str | None:
    """Return the path that a key is below; None if it is none of ours."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    try:
        return check_path(found[1].decode())
    except ValueError:  # UnicodeDecodeError, too
        return None


@dataclass
class _Path:
    """One path.

    Attributes:
        state: as it is.
        since: for each host that is scheduled, when the decision was made that it is in first, as
            far as that was seen; with whether it may be longer.
        changes: the newest last.
        version: of the board, when it changed last.
        text: as JSON.
    """

    state: PathState
    since: dict[str, tuple[str, bool]] = field(default_factory=dict)
    changes: deque[Json] = field(default_factory=lambda: deque(maxlen=_MAX_CHANGES))
    version: int = 0
    text: str = ""


class Board:
    """All paths.

    Attributes:
        version: counts changes.
        removed: paths that are gone, each with the version at which they went.
    """

    def __init__(self) -> None:
        self.version: int = 0
        self.removed: dict[str, int] = {}
        self._keys: dict[str, dict[bytes, StoredKey]] = {}
        self._paths: dict[str, _Path] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._paths))

    def update(self, changed: Mapping[bytes, StoredKey | None], revision: int, now: str) -> bool:
        """Take what has changed; return whether a path has.

        Args:
            changed: keys, each with what is stored; None if it was deleted.
            revision: of the store, at which it is so.
            now: the time, for changes that have none of their own.
        """
        touched: set[str] = set()
        for key, kv in changed.items():
            path = path_of(key)
            if path is None:
                continue
            touched.add(path)
            if kv is None:
                self._keys.get(path, {}).pop(key, None)
            else:
                self._keys.setdefault(path, {})[key] = kv
        for path in touched:
            self.version += 1
            self._redo(path, revision, now)
        return bool(touched)

    def _redo(self, path: str, revision: int, now: str) -> None:
        stored = self._keys.get(path, {})
        keys = PathKeys(path)
        if not any(key != keys.control for key in stored):
            if not stored:
                self._keys.pop(path, None)
            if self._paths.pop(path, None) is not None:
                self.removed[path] = self.version
                if len(self.removed) > _MAX_REMOVED:
                    del self.removed[next(iter(self.removed))]
            return
        self.removed.pop(path, None)
        state = PathState.decode(keys, stored.values(), revision)
        found = self._paths.get(path)
        if found is None:
            found = self._paths[path] = _Path(state)
            when = state.record.when if state.record is not None else ""
            found.since = dict.fromkeys(state.hosts, (when, True))
        else:
            _note_scheduled(found, state, now)
            found.changes.extend({"time": now, **each} for each in _changes(found.state, state))
            found.state = state
        found.version = self.version
        found.text = json.dumps(self.document(path))

    def document(self, path: str) -> Json:
        """Return all that is shown of a path, as ``docs/commands.schema.json`` has it."""
        found = self._paths[path]
        return {
            "status": document_of(found.state, {}),
            "since": [
                {"host": name, "time": when or None, "or_longer": longer}
                for name, (when, longer) in found.since.items()
            ],
            "changes": [*found.changes],
        }

    def since(self, version: int) -> Iterator[tuple[str, str]]:
        """Yield paths that have changed after a version, each as JSON; ``null`` if it is gone."""
        for path, at in self.removed.items():
            if at > version:
                yield path, "null"
        for path in self:
            found = self._paths[path]
            if found.version > version:
                yield path, found.text


def _note_scheduled(found: _Path, state: PathState, now: str) -> None:
    when = (state.record.when if state.record is not None else "") or now
    found.since = {name: found.since.get(name, (when, False)) for name in state.hosts}


def _changes(before: PathState, after: PathState) -> Iterator[Json]:
    came = after.pool.keys() - before.pool.keys()
    went = before.pool.keys() - after.pool.keys()
    if came:
        yield {"what": "joined", "hosts": _some(came), "why": _beyond(came)}
    if went:
        yield {"what": "left", "hosts": _some(went), "why": _beyond(went)}
    if _leads(before) != _leads(after):
        leader = after.leader
        yield {"what": "leader", "hosts": [] if leader is None else [leader.name], "why": ""}
    if before.hosts.revision != after.hosts.revision:
        record = after.record
        why = "" if record is None else f"{record.leader}: {record.reason}"
        yield {"what": "decided", "hosts": [*after.hosts], "why": why}
    if before.control != after.control:
        yield {"what": "control", "hosts": sorted(after.control.drained), "why": _control(after)}


def _leads(state: PathState) -> int:
    return state.leader.fence if state.leader is not None else 0


def _control(state: PathState) -> str:
    words = ["paused"] if state.control.paused else []
    if state.control.max_count is not None:
        words.append(f"max_count {state.control.max_count}")
    return ", ".join(words)


def _some(names: Iterable[str]) -> list[str]:
    return sorted(names)[:_MAX_NAMES]


def _beyond(names: Iterable[str]) -> str:
    more = len([*names]) - _MAX_NAMES
    return f"and {more} more" if more > 0 else ""
