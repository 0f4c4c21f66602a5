"""What commands print: lines for people, or one JSON object a line for programs; progress for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

import msgspec

from allsource_core.engine import Finding, PlannedRepair, Severity, VerificationProgress

__all__ = ["Output"]

_WIPE = "\r\x1b[K"


class Output:
    """Where a command's results go.

    Args:
        out: for results.
        err: for progress, if it is a terminal, and for failures.
        json: one JSON object a line instead of text; ``kind`` says what it is.
    """

    def __init__(self, out: TextIO, err: TextIO, *, json: bool) -> None:
        self._out = out
        self._err = err
        self._json = json
        self._shows_progress = err.isatty()
        self._in_progress = False

    def finding(self, finding: Finding) -> None:
        self._line(str(finding), "finding", finding)

    def findings(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.finding(finding)

    def plan(self, planned: PlannedRepair) -> None:
        self._line(f"{planned.flag or 'by hand'}: {planned.text}", "plan", planned)

    def done(self, text: str) -> None:
        self._line(text, "done", {"text": text})

    def result(self, text: str, kind: str, result: object) -> None:
        """One thing that has a form of its own for people."""
        self._line(text, kind, result)

    def summary(self, findings: Sequence[Finding]) -> int:
        """Count findings; returns the exit code: 0 where nothing is wrong."""
        counts = {severity: sum(finding.severity == severity for finding in findings) for severity in Severity}
        errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
        text = "sound" if not errors and not warnings else f"not sound: {errors} errors, {warnings} warnings"
        figures = {"sound": not errors and not warnings, "errors": errors, "warnings": warnings}
        self._line(text, "summary", {**figures, "information": counts[Severity.INFORMATION]})
        return 0 if figures["sound"] else 1

    def failure(self, text: str) -> None:
        """Say why a command could not be done."""
        self._wipe()
        if self._json:
            self._line(text, "failure", {"text": text})
        self._err.write(f"allsource-admin: {text}\n")

    def progress(self, progress: VerificationProgress) -> None:
        """Show how far verification is, if anybody looks."""
        if self._shows_progress:
            share = 100 * progress.bytes_done // max(progress.bytes_total, 1)
            self._err.write(f"{_WIPE}verifying: {progress.phase}, {share} %")
            self._err.flush()
            self._in_progress = True

    def _line(self, text: str, kind: str, fields: object) -> None:
        self._wipe()
        if self._json:
            text = msgspec.json.encode({"kind": kind, **msgspec.to_builtins(fields)}).decode()
        self._out.write(text + "\n")
        self._out.flush()

    def _wipe(self) -> None:
        if self._in_progress:
            self._err.write(_WIPE)
            self._in_progress = False
