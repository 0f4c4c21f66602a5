"""The answers as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Final

from examples.flights.loader import LoadReport
from examples.flights.questions import AircraftYear, CarrierCancellations, FlightHistory

__all__ = ["aircraft_text", "cancellations_text", "history_text", "load_text", "text_table"]

_WIDTH: Final = 110


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns as wide as they need, two spaces apart.

    Args:
        head: one title a column.
        rows: as many cells each.
        right: places of the columns that are set to the right, such as numbers.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (head, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def load_text(report: LoadReport) -> str:
    """Number of events, seconds, rate, duplicates."""
    text = (
        f"{report.events:,} events in {report.seconds:.1f} s: {report.events_per_second:,.0f} events/s through the "
        f"gateway, {report.batches:,} batches"
    )
    if report.duplicates:
        text += f"; {report.duplicates:,} of the events were there before"
    if report.retries:
        text += f"; {report.retries:,} requests sent again"
    return text


def history_text(history: FlightHistory) -> str:
    """One line an event, and below it the facts that are its own."""
    lines = [f"What happened to {history.entity_id}?"]
    for event in history.events:
        facts = ", ".join(f"{name} {value}" for name, value in event.payload.items())
        lines.append(f"{event.version}  {event.timestamp}  {event.event_type}")
        lines.append(fill(facts, width=_WIDTH, initial_indent="     ", subsequent_indent="     "))
    return "\n".join(lines if history.events else [*lines, "The store does not know it."])


def aircraft_text(year: AircraftYear) -> str:
    """Totals, then flights by month."""
    delay = year.mean_departure_delay
    facts = [
        ["aircraft", year.aircraft or "unknown"],
        ["flights", f"{year.flights:,}"],
        ["flown", f"{year.flown:,}"],
        ["cancelled", f"{year.cancelled:,}"],
        ["miles", f"{year.miles:,}"],
        ["airports", f"{len(year.airports)}: {' '.join(year.airports)}"],
        ["mean departure delay", "unknown" if delay is None else f"{delay:.1f} min"],
    ]
    months = [[month, f"{flown:,}"] for month, flown in year.flown_by_month.items()]
    return (
        f"What did {year.tail} do in the year?\n"
        f"{text_table(['tail', year.tail], facts)}\n\n{text_table(['month', 'flown'], months, right=[1])}"
    )


def cancellations_text(carriers: Sequence[CarrierCancellations]) -> str:
    """One line an airline, and one for all of them."""
    rows = [
        [row.carrier, row.airline, f"{row.scheduled:,}", f"{row.cancelled:,}", f"{row.share:.2%}"] for row in carriers
    ]
    scheduled = sum(row.scheduled for row in carriers)
    cancelled = sum(row.cancelled for row in carriers)
    if scheduled:
        rows.append(["", "all", f"{scheduled:,}", f"{cancelled:,}", f"{cancelled / scheduled:.2%}"])
    head = ["", "airline", "scheduled", "cancelled", "share"]
    return f"How many flights did each airline cancel?\n{text_table(head, rows, right=[2, 3, 4])}"
