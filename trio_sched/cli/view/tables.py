"""The state of a path as tables, drawn with rich.

A host has one line: columns for which there is no room are left out, and what is cut ends in an
ellipsis. In a wide view nothing is cut: what does not fit into a column goes on below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from trio_sched._support.text import plain
from trio_sched.cli.view.fitting import Names, clip, mark_of, share
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
# Where a host has one line: columns that may be cut, and the width that is kept for them; and those
# that are left out before, the first of them first.
_CUT = {"HOST": 24, "WHY": 20}
_SPARE = ("DATA", "LEASE", "PRIORITY", "WEIGHT", "TTL", "ZONE", "AGE")
_RIGHT = ("WEIGHT", "PRIORITY", "AGE", "TTL")
_LINES = 3  # of what is odd, each
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
    *,
    wide: bool = False,
) -> RenderableType:
    """Draw all of it.

    Args:
        state: the state.
        ttls: seconds until leases lapse, by their ids; None if they were not read.
        now: the time, for ages.
        age: seconds since etcd answered last.
        etcd: what was found out about etcd itself.
        selection: which hosts are shown.
        wide: leave out no column, and cut nothing.
    """
    rows = _facts(state, now, age, etcd)
    parts: list[RenderableType] = [_whole(rows) if wide else _Facts(rows)]
    hosts, left_out = select(state, selection)
    if hosts:
        parts += [Text(), PoolView(state, ttls, now, hosts, wide=wide)]
    if left_out:
        parts += [Text(), Text(f"{left_out} more hosts; see `trio-sched status --all`")]
    elif selection.is_narrow:
        parts += [Text(), Text(f"{len(hosts)} of {len(state.pool)} hosts")]
    if state.slots:
        parts += [Text(), _slots(state) if wide else _Slots(state)]
    found = diagnose(state)
    if found:
        parts += [Text(), findings_view(found) if wide else _Findings(found)]
    return Group(*parts)


_Fact = str | Text | Names  # one line of text, text that may go on below, names


def _whole(rows: Iterable[tuple[str, _Fact]]) -> Table:
    return facts((name, fact.all() if isinstance(fact, Names) else fact) for name, fact in rows)


class _Facts:
    """Names and values, each value on one line; but trouble goes on below."""

    def __init__(self, rows: Iterable[tuple[str, _Fact]]) -> None:
        self._rows = list(rows)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - max(cell_len(name) for name, _ in self._rows) - 2
        mark = mark_of(options)

        def fit(fact: _Fact) -> Text:
            if isinstance(fact, Text):
                return fact
            if isinstance(fact, Names):
                return fact.fit(room, mark)
            return clip(Text(plain(fact)), room, mark)

        yield facts((name, fit(fact)) for name, fact in self._rows)


def _facts(
    state: PathState, now: datetime, age: float, etcd: EtcdReport | None
) -> Iterator[tuple[str, _Fact]]:
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


def _decision(state: PathState, now: datetime) -> Iterator[tuple[str, _Fact]]:
    hosts, record = state.hosts, state.record
    after = f" (revision {hosts.revision})" if hosts.revision else ""
    yield "scheduled", Names([*map(plain, hosts)], after, "green" if hosts else "")
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
    """A line for each host; in a wide view a paragraph, if a terminal is too narrow for that.

    Args:
        state: the state.
        ttls: seconds until leases lapse, by their ids; None if they were not read.
        now: the time, for ages.
        hosts: those to show; None for all.
        wide: leave out no column, and cut nothing.
    """

    def __init__(
        self,
        state: PathState,
        ttls: Mapping[int, int | None] | None,
        now: datetime,
        hosts: Iterable[Host] | None = None,
        *,
        wide: bool = True,
    ) -> None:
        self._wide = wide
        shown = state.pool.values() if hosts is None else hosts
        self._rows = [_row(state, host, ttls, now) for host in shown]
        self._names = [
            name
            for name in (self._rows[0] if self._rows else {})
            if name not in _USUAL or any(row[name].plain != _USUAL[name] for row in self._rows)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._wide:
            yield from self._as_lines(options)
            return
        if self._least_width() <= options.max_width:
            yield self._as_table()
            return
        for at, row in enumerate(self._rows):
            if at:
                yield Text()
            yield facts((name.lower(), row[name]) for name in self._names if row[name].plain)

    def _as_lines(self, options: ConsoleOptions) -> Iterator[Text]:
        names = self._names.copy()
        for spare in _SPARE:
            wanted = {name: self._widest(name) for name in names}
            if spare in names and _least(wanted, _CUT) > options.max_width:
                names.remove(spare)
        wanted = {name: self._widest(name) for name in names}
        widths = _widths(wanted, options.max_width)
        yield from _lines(names, self._rows, widths, options)
        left_out = ", ".join(name for name in self._names if name not in names)
        if left_out or widths != wanted:
            words = f"more in `status --wide`: {left_out or 'what is cut'}"
            yield clip(Text(words, style="dim"), options.max_width, mark_of(options))

    def _least_width(self) -> int:
        """Return the width at which nothing has to be broken that cannot be read then."""
        wanted = {name: self._widest(name) for name in self._names}
        return _least(wanted, dict.fromkeys(_SOFT, _MIN_SOFT))

    def _widest(self, name: str) -> int:
        return max(cell_len(name), *(row[name].cell_len for row in self._rows))

    def _as_table(self) -> Table:
        made = table(*self._names, right=_RIGHT)
        for column in made.columns:
            column.no_wrap = str(column.header) not in _SOFT
        for row in self._rows:
            made.add_row(*(row[name] for name in self._names))
        return made


def _widths(wanted: Mapping[str, int], room: int) -> dict[str, int]:
    """Return how wide each column is; those that cannot be cut get what they want, if they can."""
    is_enough = _least(wanted, _CUT) <= room
    soft = {name: width for name, width in wanted.items() if name in _CUT or not is_enough}
    hard = {name: width for name, width in wanted.items() if name not in soft}
    left = room - 2 * (len(wanted) - 1) - sum(hard.values())
    return hard | dict(zip(soft, share([*soft.values()], left), strict=True))


def _least(wanted: Mapping[str, int], soft: Mapping[str, int]) -> int:
    """Return the least width of a table, of which some columns may be cut to a width."""
    return sum(min(width, soft.get(name, width)) + 2 for name, width in wanted.items()) - 2


def _lines(
    names: Iterable[str],
    rows: Iterable[Mapping[str, Text]],
    widths: Mapping[str, int],
    options: ConsoleOptions,
) -> Iterator[Text]:
    """Draw a table of one line for each row; much faster than rich's own, for many rows."""
    mark = mark_of(options)
    yield _line(((name, Text(name, style="bold")) for name in names), widths, mark)
    for row in rows:
        yield _line(((name, row[name]) for name in names), widths, mark)


def _line(cells: Iterable[tuple[str, Text]], widths: Mapping[str, int], mark: str) -> Text:
    made = Text(no_wrap=True, overflow="crop")
    for name, cell in cells:
        shown = clip(cell, widths[name], mark)
        blanks = " " * (widths[name] - shown.cell_len)
        made.append("  " if made.plain else "")
        made.append_text(Text(blanks) + shown if name in _RIGHT else shown + Text(blanks))
    made.rstrip()
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


class _Slots:
    """A line for each slot."""

    def __init__(self, state: PathState) -> None:
        self._rows = [
            (str(slot.index), plain(slot.name), str(slot.token), f"{slot.lease:x}")
            for slot in state.slots.values()
        ]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        made = table("SLOT", "HELD BY", "TOKEN", "LEASE", right=("SLOT", "TOKEN"))
        numbers = [("SLOT", "TOKEN", "LEASE"), *((row[0], *row[2:]) for row in self._rows)]
        room = options.max_width - 6  # between columns
        room -= sum(max(map(len, column)) for column in zip(*numbers, strict=True))
        for index, name, *rest in self._rows:
            made.add_row(index, clip(Text(name), max(room, 7), mark_of(options)), *rest)
        yield made


class _Findings:
    """What is odd, each on a few lines."""

    def __init__(self, found: Iterable[Finding]) -> None:
        self._found = list(found)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.max_width - 9, 1)  # "warning" and two blanks
        made = findings_view(())
        for finding in self._found:
            wrapped = Text(plain(finding.message)).wrap(console, room, overflow="fold")
            lines, mark = list(wrapped), mark_of(options)
            if len(lines) > _LINES:
                lines = lines[:_LINES]
                lines[-1].rstrip()
                lines[-1].truncate(room - len(mark))
                lines[-1].append(mark)
            made.add_row(*_finding(finding, Text("\n").join(lines)))
        yield made


def _finding(finding: Finding, message: Text) -> tuple[Text, Text]:
    style = "bold yellow" if finding.level == "warning" else "dim"
    return Text(finding.level, style=style), message


def findings_view(found: Iterable[Finding]) -> Table:
    """Draw what is odd."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for finding in found:
        made.add_row(*_finding(finding, Text(plain(finding.message))))
    return made
