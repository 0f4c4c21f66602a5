"""``allsource-admin store``: verify, inspect, repair, upgrade. Each is for a stopped store, or a copy of one."""

from __future__ import annotations

import argparse
from pathlib import Path

from allsource_core.admin.descriptions import description_text
from allsource_core.admin.output import Output
from allsource_core.engine import (
    Finding,
    Repairs,
    inspect_store,
    plan_repairs,
    repair_store,
    upgrade_store,
    verify_store,
)

__all__ = ["add_store_commands"]


def add_store_commands(parser: argparse.ArgumentParser) -> None:
    """Put the commands under ``store``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    verify = commands.add_parser("verify", help="find every damage, change nothing")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser("inspect", help="say what the store is made of")
    inspect.set_defaults(run=_inspect)
    repair = commands.add_parser("repair", help="print what could be done, or do what flags ask for")
    repair.set_defaults(run=_repair)
    upgrade = commands.add_parser("upgrade", help="make a store of an older format one of this release's")
    upgrade.set_defaults(run=_upgrade)
    for command in (verify, inspect, repair, upgrade):
        command.add_argument("data_dir", metavar="DATA_DIR", type=Path, help="of a stopped store, or a copy of one")
        command.add_argument("--json", action="store_true", help="one JSON object a line")
    repair.add_argument(
        "--rebuild-derived", action="store_true", help="make anew indexes and key files that are missing or wrong"
    )
    repair.add_argument("--remove-stray", action="store_true", help="remove files that no manifest names")
    repair.add_argument(
        "--cut-log", action="store_true", help="cut the log at its first damage; everything behind it is lost"
    )
    repair.add_argument(
        "--drop-segment",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="give up a damaged segment; may be repeated",
    )
    repair.add_argument(
        "--keep-in",
        metavar="DIR",
        type=Path,
        help="where to keep what is taken out; by default DATA_DIR.damaged-<time> beside it",
    )


def _verify(arguments: argparse.Namespace, output: Output) -> int:
    findings: list[Finding] = []
    for finding in verify_store(arguments.data_dir, progress=output.progress):
        output.finding(finding)
        findings.append(finding)
    return output.summary(findings)


def _inspect(arguments: argparse.Namespace, output: Output) -> int:
    description = inspect_store(arguments.data_dir)
    output.result(description_text(description), "store", description)
    return 1 if description.faults else 0


def _repair(arguments: argparse.Namespace, output: Output) -> int:
    repairs = Repairs(
        drop_segments=tuple(dict.fromkeys(arguments.drop_segment)),
        rebuild_derived=arguments.rebuild_derived,
        remove_stray=arguments.remove_stray,
        cut_log=arguments.cut_log,
    )
    if not repairs:
        findings, planned = plan_repairs(arguments.data_dir, progress=output.progress)
        output.findings(findings)
        for one in planned:
            output.plan(one)
        return output.summary(findings)
    findings = repair_store(
        arguments.data_dir, repairs, keep_in=arguments.keep_in, tell=output.done, progress=output.progress
    )
    output.findings(findings)
    return output.summary(findings)


def _upgrade(arguments: argparse.Namespace, output: Output) -> int:
    before, now = upgrade_store(arguments.data_dir)
    text = f"the store has format {now} already" if before == now else f"upgraded from format {before} to {now}"
    output.result(text, "upgraded", {"from": before, "to": now})
    return 0
