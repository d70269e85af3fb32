"""Tables of what was measured: with rich if it is installed, else plain."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from _catalogue import FRESH, Column, Row
from _go import version as go_version
from _required import Verdict
from _runner import Plan, Results, Sample

__all__ = ["as_json", "show"]

Cell = Callable[[list[Sample]], str]


def show(plan: Plan, results: Results, judged: Sequence[Verdict]) -> None:
    """Print everything."""
    versions = [f"etcd {results.etcd}", f"Python {platform.python_version()}"]
    versions += [f"{c.package or c.name} {_version(c)}" for c in plan.columns if _version(c)]
    print(f"{', '.join(versions)}; medians of {plan.rounds} rounds")
    repeated = [row for row in plan.rows if row not in FRESH]
    if repeated:
        for title, cell in (
            ("CPU us for each operation", _median("cpu")),
            ("operations in a second", _per_second),
            ("us for a call: p50 / p99", _percentiles),
        ):
            _table(title, plan.columns, _cells(repeated, plan.columns, results, cell))
    if fresh := [row for row in plan.rows if row in FRESH]:
        _table(
            "new process (CPU / wall)",
            plan.columns,
            _fresh_cells(fresh, plan.columns, results),
        )
    _reasons(plan, results)
    _required(judged)


def as_json(plan: Plan, results: Results, judged: Sequence[Verdict]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "etcd": results.etcd,
        "python": platform.python_version(),
        "rounds": plan.rounds,
        "quick": plan.quick,
        "versions": {column.name: _version(column) for column in plan.columns},
        "rows": {
            row.name: {column.name: _as_json(results, row, column) for column in plan.columns}
            for row in plan.rows
        },
        "required": [
            {
                "text": verdict.requirement.text,
                "ratio": verdict.ratio,
                "quartiles": [verdict.low, verdict.high],
                "passed": verdict.passed,
            }
            for verdict in judged
        ],
    }


def _as_json(results: Results, row: Row, column: Column) -> dict[str, Any]:
    samples = results.samples.get((row.name, column.name), [])
    if not samples:
        return {"reason": results.reasons.get((row.name, column.name), "not measured")}
    figures = [name for name in samples[0] if name != "latencies"]
    medians = {name: statistics.median(s[name] for s in samples) for name in figures}
    if latencies := _latencies(samples):
        medians |= {"p50": _at(latencies, 0.5), "p99": _at(latencies, 0.99)}
    return {**medians, "samples": [{name: s[name] for name in figures} for s in samples]}


# ---- cells --------------------------------------------------------------------


def _median(figure: str) -> Cell:
    return lambda samples: _number(statistics.median(sample[figure] for sample in samples))


def _per_second(samples: list[Sample]) -> str:
    return f"{1e6 / statistics.median(sample['wall'] for sample in samples):,.0f}"


def _percentiles(samples: list[Sample]) -> str:
    latencies = _latencies(samples)
    return f"{_at(latencies, 0.5):,.0f} / {_at(latencies, 0.99):,.0f}" if latencies else ""


def _latencies(samples: list[Sample]) -> list[float]:
    return sorted(latency for sample in samples for latency in sample.get("latencies", ()))


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _cells(
    rows: Sequence[Row], columns: Sequence[Column], results: Results, cell: Cell
) -> list[list[str]]:
    table = []
    for row in rows:
        samples = [results.samples.get((row.name, column.name)) for column in columns]
        cells = [cell(found) if found else "-" for found in samples]
        if any(cells):
            table.append([row.title, *cells])
    return table


def _fresh_cells(
    rows: Sequence[Row], columns: Sequence[Column], results: Results
) -> list[list[str]]:
    table = []
    for row in rows:
        table += _cells([row], columns, results, FRESH_CELLS[row.name])
    return table


def _milliseconds(samples: list[Sample]) -> str:
    cpu, wall = (statistics.median(s[name] for s in samples) / 1000 for name in ("cpu", "wall"))
    return f"{cpu:.1f} / {wall:.1f}"


def _bytes(unit: float) -> Cell:
    return lambda samples: f"{statistics.median(s['bytes'] for s in samples) / unit:.1f}"


FRESH_CELLS = {
    "import": _milliseconds,
    "cold": _milliseconds,
    "process": _bytes(1e6),
    "memory": _bytes(1e3),
}


# ---- printing -----------------------------------------------------------------


def _table(title: str, columns: Sequence[Column], lines: list[list[str]]) -> None:
    head = [title, *(column.name for column in columns)]
    _print(head, lines)


def _print(head: list[str], lines: list[list[str]]) -> None:
    print()
    if importlib.util.find_spec("rich") is None:
        _print_plain([head, *lines])
        return
    table = importlib.import_module("rich.table").Table()
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console = importlib.import_module("rich.console").Console()
    console.width = max(console.width, 110)  # a redirected one has 80
    console.print(table)


def _print_plain(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def _reasons(plan: Plan, results: Results) -> None:
    """Say why there is a '-', once for each client and reason."""
    rows_of: dict[tuple[str, str], list[str]] = {}
    for (row, column), reason in results.reasons.items():
        rows_of.setdefault((column, reason), []).append(row)
    print()
    for (column, reason), rows in rows_of.items():
        which = "all rows" if len(rows) == len(plan.rows) else ", ".join(rows)
        print(f"- {column}, {which}: {reason}")


def _required(judged: Sequence[Verdict]) -> None:
    lines = []
    for verdict in judged:
        word = "not measured" if verdict.ratio is None else "PASS" if verdict.passed else "FAIL"
        ratio = "-" if verdict.ratio is None else f"{verdict.ratio:.2f}"
        spread = "-" if verdict.ratio is None else f"{verdict.low:.2f} - {verdict.high:.2f}"
        lines.append([verdict.requirement.text, ratio, spread, word])
    _print(["required", "ours / theirs", "quartiles", ""], lines)


def _version(column: Column) -> str | None:
    if column.compiled:
        return go_version()
    try:
        return importlib.metadata.version(column.package)
    except importlib.metadata.PackageNotFoundError:
        return None
