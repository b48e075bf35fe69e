"""A stability report as text for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..measure.trace import HashAlgorithm
from .manifest import RegisterRow
from .stability import Influence, Pair, Row, StabilityReport, Verdict

# Ours: combinations with one RIM that a line shows, and refused ones that stand as examples.
_SHOWN = 6
_EXAMPLES = 3


def to_json(report: StabilityReport) -> dict[str, Any]:
    """Everything the text says, with every row, for programs."""
    names = [axis.name for axis in report.axes]
    return {
        "profile": report.base.profile,
        "machine": json.loads(report.base.identity()),
        "axes": [_axis_json(item) for item in report.influences],
        "rows": [_row_json(row, names) for row in report.rows],
        "influence": [_influence_json(item, names) for item in report.influences],
        "others": [_influence_json(item, ["vcpus", item.axis.name]) for item in report.others],
        "no_influence": list(report.unmeasured),
        "notes": list(report.notes),
    }


def _axis_json(item: Influence) -> dict[str, Any]:
    return {"name": item.axis.name, "option": item.axis.kind.option, "values": list(item.axis.values)}


def _row_json(row: Row, names: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"values": dict(zip(names, row.values, strict=True))}
    if row.established is None:
        return {**values, "registers": [], "refused": row.refused}
    register = RegisterRow(
        register="RIM",
        algorithm=HashAlgorithm(row.algorithm),
        value=row.rim,
        established=row.established,
    )
    return {**values, "registers": [register.to_json()]}


def _influence_json(item: Influence, names: Sequence[str]) -> dict[str, Any]:
    def pair(found: Pair | None) -> list[dict[str, str]] | None:
        if found is None:
            return None
        return [dict(zip(names, row.values, strict=True)) for row in (found.first, found.second)]

    return {
        **_axis_json(item),
        "verdict": item.verdict.value,
        "compared": item.compared,
        "different": pair(item.different),
        "equal": pair(item.equal),
        "refused": item.refused,
    }


def render(report: StabilityReport) -> str:
    """The report for people: verdicts first, then every RIM with the machines that have it."""
    lines = [*_heading(report), "", *_verdicts(report)]
    if report.others:
        lines += ["", *_alone(report)]
    if report.unmeasured:
        lines += ["", "no influence, whatever the value", *(f"  {text}" for text in report.unmeasured)]
    lines += ["", *_table(report), *_refused(report)]
    return "\n".join(lines) + "\n"


def _heading(report: StabilityReport) -> Iterator[str]:
    valid = [row for row in report.rows if not row.refused]
    labels = sorted({row.established.value for row in valid if row.established})
    yield f"profile {report.base.profile}, RIM established: {', '.join(labels)}"
    yield (
        f"{len(report.rows)} machines, {len(valid)} of them possible, {len({row.rim for row in valid})} "
        "different RIMs"
    )


def _verdicts(report: StabilityReport) -> Iterator[str]:
    yield "each option, with everything else as it is, over the matrix"
    names = [axis.name for axis in report.axes]
    varied = [item for item in report.influences if len(item.axis.values) > 1]
    fixed = [item for item in report.influences if len(item.axis.values) == 1]
    yield from _columns(_verdict(item, names) for item in varied)
    if fixed:
        yield "  as given: " + ", ".join(f"{item.axis.name} {item.axis.values[0]}" for item in fixed)
    tied = [report.axes[index].name for index in _tied(report)]
    if len(tied) > 1:
        yield f"  several of {', '.join(tied)} at once can make up for each other; see the table"


def _alone(report: StabilityReport) -> Iterator[str]:
    yield "every other option, changed alone on the given command line"
    yield from _columns(_verdict(item, ["vcpus", item.axis.name]) for item in report.others)
    if not any(axis.name == "algorithms" for axis in report.axes):
        yield "  --measurement-algo: another hash gives another value; measure with it"
    yield "  -k, -i: every byte of kernel and initramfs counts, and the initramfs' size moves it"


def _verdict(item: Influence, names: Sequence[str]) -> tuple[str, ...]:
    text = item.verdict.value
    if item.verdict is Verdict.SOMETIMES and item.equal and item.different:
        equal, different = _examples(item.axis.name, names, item.equal, item.different)
        text += f": not {equal}, but {different}"
    elif item.refused:
        text += f": {item.refused}"
    return item.axis.kind.option, item.axis.name, ", ".join(item.axis.values), text


def _examples(own: str, names: Sequence[str], *pairs: Pair) -> list[str]:
    """Of each pair the two values of an axis, with those of the other axes that the pairs do not share."""
    values = [dict(zip(names, pair.first.values, strict=True)) for pair in pairs]
    apart = [name for name in names if name != own and len({item[name] for item in values}) > 1]
    texts = []
    for pair, item in zip(pairs, values, strict=True):
        other = dict(zip(names, pair.second.values, strict=True))[own]
        rest = ", ".join(f"{name} {item[name]}" for name in apart)
        texts.append(f"{item[own]} to {other}" + (f" with {rest}" if rest else ""))
    return texts


def _columns(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))] if table else []
    for row in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _groups(report: StabilityReport) -> dict[tuple[str, bytes], list[Row]]:
    """The possible rows by their RIM, in the order of the matrix."""
    groups: dict[tuple[str, bytes], list[Row]] = {}
    for row in report.rows:
        if not row.refused:
            groups.setdefault((row.algorithm, row.rim), []).append(row)
    return groups


def _tied(report: StabilityReport) -> list[int]:
    """The axes with an influence that are not the same in all rows of one RIM."""
    found = set()
    for rows in _groups(report).values():
        for index, item in enumerate(report.influences):
            if item.verdict is not Verdict.NONE and len({row.values[index] for row in rows}) > 1:
                found.add(index)
    return sorted(found)


def _table(report: StabilityReport) -> Iterator[str]:
    """A line for each RIM. Axes that can make up for each other share a column of combinations."""
    tied = _tied(report)
    single = [
        index
        for index, item in enumerate(report.influences)
        if index not in tied and item.verdict is not Verdict.NONE and len(item.axis.values) > 1
    ]
    heading = [report.axes[index].name for index in single]
    if tied:
        heading.append("/".join(report.axes[index].name for index in tied))
    lines = [(*heading, "RIM")]
    for (_, rim), rows in _groups(report).items():
        cells = [rows[0].values[index] for index in single]
        if tied:
            combined = list(dict.fromkeys("/".join(row.values[index] for index in tied) for row in rows))
            more = f" and {len(combined) - _SHOWN} more" if len(combined) > _SHOWN else ""
            cells.append(" ".join(combined[:_SHOWN]) + more)
        lines.append((*cells, rim.hex()))
    yield from (line.removeprefix("  ") for line in _columns(lines))


def _refused(report: StabilityReport) -> Iterator[str]:
    reasons: dict[str, list[Row]] = {}
    for row in report.rows:
        if row.refused:
            reasons.setdefault(row.refused, []).append(row)
    if not reasons:
        return
    yield ""
    yield f"{sum(map(len, reasons.values()))} machines that cannot be launched"
    varied = [index for index, axis in enumerate(report.axes) if len(axis.values) > 1]
    for reason, rows in reasons.items():
        shown = "; ".join(
            ", ".join(f"{report.axes[index].name} {row.values[index]}" for index in varied)
            for row in rows[:_EXAMPLES]
        )
        more = f"; and {len(rows) - _EXAMPLES} more" if len(rows) > _EXAMPLES else ""
        yield f"  {reason}"
        if shown:
            yield f"    {shown}{more}"
