"""The state of a path as tables, drawn with rich.

Nothing is cut: what does not fit into a column goes on below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from trio_sched._support.text import plain
from trio_sched.cli.view.selection import Selection, select, states_of
from trio_sched.cli.view.silence import OLD
from trio_sched.cli.view.trouble import EtcdReport
from trio_sched.cli.view.words import age_of, ago, as_data, control_lines, eviction_line, known_ago
from trio_sched.etcd_shim._versions import known_faults
from trio_sched.leader.diagnosis import (
    Finding,
    diagnose,
    is_known_to_leader,
    is_pending,
    leader_ignores_control,
)
from trio_sched.model.path_state import PathState
from trio_sched.model.records import Host

__all__ = ["PoolView", "facts", "findings_view", "status_view", "table"]

# Where all hosts have the same to say, and it is this, the column is left out.
_USUAL = {"WHY": "", "ZONE": "-", "WEIGHT": "1", "PRIORITY": "0", "TTL": "", "DATA": ""}
# Columns that may be broken, and the width that they have to have.
_SOFT, _MIN_SOFT = ("HOST", "WHY", "DATA"), 16
_BY_DEFAULT = Selection()
_STYLES = {"scheduled": "green", "unavailable": "red", "drained": "yellow"}


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Return a table without lines, which is what people can paste and programs can split."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return made


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return a table of two columns, names and values; no name is wrapped."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in rows:
        made.add_row(name, text if isinstance(text, Text) else Text(plain(text)))
    return made


def status_view(
    state: PathState,
    ttls: Mapping[int, int | None] | None,
    now: datetime,
    age: float = 0.0,
    etcd: EtcdReport | None = None,
    selection: Selection = _BY_DEFAULT,
) -> RenderableType:
    """Draw all of it.

    Args:
        state: the state.
        ttls: seconds until leases lapse, by their ids; None if they were not read.
        now: the time, for ages.
        age: seconds since etcd answered last.
        etcd: what was found out about etcd itself.
        selection: which hosts are shown.
    """
    parts: list[RenderableType] = [facts(_facts(state, now, age, etcd))]
    hosts, left_out = select(state, selection)
    if hosts:
        parts += [Text(), PoolView(state, ttls, now, hosts)]
    if left_out:
        parts += [Text(), Text(f"{left_out} more hosts; see `trio-sched status --all`")]
    elif selection.is_narrow:
        parts += [Text(), Text(f"{len(hosts)} of {len(state.pool)} hosts")]
    if state.slots:
        parts += [Text(), _slots(state)]
    found = diagnose(state)
    if found:
        parts += [Text(), findings_view(found)]
    return Group(*parts)


def _facts(
    state: PathState, now: datetime, age: float, etcd: EtcdReport | None
) -> Iterator[tuple[str, str | Text]]:
    old = f", {known_ago(age)}" if age >= OLD else ""
    yield "path", f"{state.path} (revision {state.revision}{old})"
    if etcd is not None:
        for at, line in enumerate(etcd.trouble):
            yield "" if at else "trouble", Text(plain(line), style="bold red")
        faults = [(one, fault) for one in etcd.versions for fault in known_faults(one)]
        for at, (version, fault) in enumerate(faults):
            yield "" if at else "etcd", Text(f"{version}: {fault}", style="yellow")
    leader = state.leader
    if leader is None:
        yield "leader", "none"
    else:
        waiting = len(state.candidates) - 1
        yield "leader", f"{leader.name} (fence {leader.fence}, {waiting} more would lead)"
    yield from _decision(state, now)
    lines = list(_control(state, now))
    if lines and state.pool and not is_known_to_leader(state, state.control.revision):
        ignored = leader_ignores_control(state)
        lines.append("(the leader takes no notice)" if ignored else "(not in the decision yet)")
    for at, line in enumerate(lines or ["nothing"]):
        yield "" if at else "control", line


def _decision(state: PathState, now: datetime) -> Iterator[tuple[str, str | Text]]:
    hosts, record = state.hosts, state.record
    chosen = Text(plain(", ".join(hosts)) or "none", style="green" if hosts else "")
    if hosts.revision:
        chosen.append(f" (revision {hosts.revision})", style="default")
    yield "scheduled", chosen
    if record is not None:
        when = ago(record.when, now)
        yield "decided", f"by {record.leader}" + (f" {when}" if when else "") + f": {record.reason}"
        shown = {name: value for name, value in record.options.items() if name != "control"}
        yield "options", ", ".join(f"{name} {_brief(value)}" for name, value in shown.items())


def _brief(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _control(state: PathState, now: datetime) -> Iterator[str]:
    yield from control_lines(state.control, now)
    for name in state.control.evictions:
        if is_pending(state, name):
            yield eviction_line(state.control, name, now)


class PoolView:
    """A line for each host; or a paragraph, if a terminal is too narrow for that.

    Args:
        state: the state.
        ttls: seconds until leases lapse, by their ids; None if they were not read.
        now: the time, for ages.
        hosts: those to show; None for all.
    """

    def __init__(
        self,
        state: PathState,
        ttls: Mapping[int, int | None] | None,
        now: datetime,
        hosts: Iterable[Host] | None = None,
    ) -> None:
        shown = state.pool.values() if hosts is None else hosts
        self._rows = [_row(state, host, ttls, now) for host in shown]
        self._names = [
            name
            for name in (self._rows[0] if self._rows else {})
            if name not in _USUAL or any(row[name].plain != _USUAL[name] for row in self._rows)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width() <= options.max_width:
            yield self._as_table()
            return
        for at, row in enumerate(self._rows):
            if at:
                yield Text()
            yield facts((name.lower(), row[name]) for name in self._names if row[name].plain)

    def _least_width(self) -> int:
        """Return the width at which nothing has to be broken that cannot be read then."""
        width = 0
        for name in self._names:
            widest = max(cell_len(name), *(row[name].cell_len for row in self._rows))
            width += 2 + (min(widest, _MIN_SOFT) if name in _SOFT else widest)
        return width - 2

    def _as_table(self) -> Table:
        made = table(*self._names, right=("WEIGHT", "PRIORITY", "AGE", "TTL"))
        for column in made.columns:
            column.no_wrap = str(column.header) not in _SOFT
        for row in self._rows:
            made.add_row(*(row[name] for name in self._names))
        return made


def _row(
    state: PathState, host: Host, ttls: Mapping[int, int | None] | None, now: datetime
) -> dict[str, Text]:
    words = states_of(state, host)
    note = state.control.note(f"drained/{host.name}") if "drained" in words else None
    said = host.reason if not host.available else ""
    why = [said, note.why if note is not None else "", host.trouble]
    style = next((_STYLES[word] for word in reversed(words) if word in _STYLES), "")
    row = {
        "HOST": host.name,
        "STATE": ", ".join(words),
        "WHY": "; ".join(text for text in why if text),
        "ZONE": host.zone or "-",
        "WEIGHT": f"{host.weight:g}",
        "PRIORITY": str(host.priority),
        "AGE": age_of(host.since, now),
        "LEASE": f"{host.lease:x}" if host.lease else "none",
        "TTL": "" if ttls is None else _ttl(ttls, host.lease),
        "DATA": as_data(host.data),
    }
    return {
        name: Text(plain(text), style=style if name == "STATE" else "")
        for name, text in row.items()
    }


def _ttl(ttls: Mapping[int, int | None], lease: int) -> str:
    ttl = ttls.get(lease)
    return "?" if ttl is None else f"{ttl}s"


def _slots(state: PathState) -> Table:
    made = table("SLOT", "HELD BY", "TOKEN", "LEASE", right=("SLOT", "TOKEN"))
    for slot in state.slots.values():
        made.add_row(str(slot.index), plain(slot.name), str(slot.token), f"{slot.lease:x}")
    return made


def findings_view(found: Iterable[Finding]) -> Table:
    """Draw what is odd."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for finding in found:
        style = "bold yellow" if finding.level == "warning" else "dim"
        made.add_row(Text(finding.level, style=style), Text(plain(finding.message)))
    return made
