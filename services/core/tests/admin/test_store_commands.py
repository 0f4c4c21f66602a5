"""The command line: exit codes, one finding a line, JSON for programs, nothing on standard error but progress."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from allsource_core.admin.__main__ import main
from allsource_core.admin.descriptions import description_text
from allsource_core.admin.output import Output
from allsource_core.engine import EventStore, VerificationProgress, inspect_store
from allsource_core.engine.log_format import (
    CLOSING_MARK,
    FILE_HEADER_BYTES,
    LogFileHeader,
    encode_file_header,
    frame,
)

from .rich_stores import OPTIONS, copied, digest, flip, log_files, make_rich_store, manifest_of, segment_files
from .rich_stores import event as event_of


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rich_store(tmp_path_factory.mktemp("sound") / "store")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return copied(sound, tmp_path / "parent" / "store")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    """The exit code of ``store …``, the lines it printed, and what it wrote on standard error."""
    status = main(["store", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_a_sound_store_is_0(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(store)
    assert run(capsys, "verify", store) == (0, ["sound"], "")
    assert run(capsys, "repair", store) == (0, ["sound"], "")
    assert digest(store) == before


def test_a_damaged_store_is_1_and_each_finding_a_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_files(store)[1]
    flip(path, 8 * 60)
    (store / "MANIFEST").chmod(0o644)
    status, lines, err = run(capsys, "verify", store)
    assert (status, err, len(lines)) == (1, "", 3)
    assert lines[0].startswith("WARNING MANIFEST@0: its mode is 0644")
    assert lines[1].startswith(f"ERROR log/{path.name}@32: ")
    assert lines[2] == "not sound: 1 errors, 1 warnings"


def test_json_is_one_object_a_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = segment_files(store)[0]
    flip(path, 8 * 100)
    status, lines, _ = run(capsys, "verify", "--json", store)
    finding, *_, summary = objects(lines)
    assert status == 1
    assert (finding["kind"], finding["severity"], finding["area"]) == ("finding", "error", "segment")
    assert finding["file"] == f"segments/{path.name}"
    assert finding["number"] == manifest_of(store).segments[0].file
    assert isinstance(finding["offset"], int)
    assert summary == {"kind": "summary", "sound": False, "errors": 1, "warnings": 0, "information": 0}


def test_information_alone_is_0(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "tmp" / "left").touch(mode=0o600)
    status, lines, _ = run(capsys, "verify", store)
    assert status == 0
    assert lines[0].startswith("INFORMATION tmp/left@0: ")


def test_repair_without_flags_prints_what_each_would_do(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = manifest_of(store).segments[1]
    flip(segment_files(store)[1], 8 * 100)
    flip(log_files(store)[1], 8 * 60)
    before = digest(store.parent)
    status, lines, _ = run(capsys, "repair", store)
    assert status == 1
    assert digest(store.parent) == before
    assert any(line.startswith(f"--drop-segment {entry.file}: gives up segment {entry.file}: ") for line in lines)
    assert any(line.startswith("--cut-log: ") for line in lines)
    plans = [one for one in objects(run(capsys, "repair", "--json", store)[1]) if one["kind"] == "plan"]
    assert [one["flag"] for one in plans] == [f"--drop-segment {entry.file}", "--cut-log"]


def test_repairs_are_done_and_verified(store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    entry = manifest_of(store).segments[1]
    flip(segment_files(store)[1], 8 * 100)
    flip(log_files(store)[1], 8 * 60)
    min((store / "keys").iterdir()).unlink()
    (store / "tmp" / "left").touch(mode=0o600)
    flags = ["--drop-segment", entry.file, "--cut-log", "--rebuild-derived", "--remove-stray"]
    status, lines, err = run(capsys, "repair", *flags, "--keep-in", tmp_path / "kept", store)
    assert (status, err) == (0, "")
    assert lines[-1] == "sound"
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"log", "segments"}
    assert run(capsys, "verify", store)[0] == 0
    EventStore.open(store, options=OPTIONS).close()


def test_a_repair_that_is_refused_is_1(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = manifest_of(store).segments[0].file
    status, lines, err = run(capsys, "repair", "--drop-segment", number, store)
    assert (status, lines) == (1, [])
    assert err == f"allsource-admin: segment {number} is sound, and is not dropped\n"


@pytest.mark.parametrize("command", ["verify", "inspect", "repair", "upgrade"])
def test_an_open_store_is_1(store: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with EventStore.open(store, options=OPTIONS):
        status, lines, err = run(capsys, command, store)
        assert (status, lines) == (1, [])
        assert "another process has the data directory" in err
        failure = objects(run(capsys, command, "--json", store)[1])
        assert [one["kind"] for one in failure] == ["failure"]


@pytest.mark.parametrize("command", ["verify", "inspect", "repair", "upgrade"])
def test_a_directory_that_is_no_store_is_1(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, err = run(capsys, command, tmp_path / "nothing")
    assert (status, lines) == (1, [])
    assert "no store of AllSource" in err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["store"],
        ["shop"],
        ["store", "mend", "x"],
        ["store", "verify"],
        ["store", "verify", "--force", "x"],
        ["store", "repair", "--drop-segment", "one", "x"],
    ],
)
def test_what_nobody_understands_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_inspect_says_what_the_store_is_made_of(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(store)
    manifest = manifest_of(store)
    status, lines, _ = run(capsys, "inspect", "--json", store)
    (found,) = objects(lines)
    assert digest(store) == before
    assert status == 0
    assert (found["kind"], found["format"], found["faults"]) == ("store", 2, [])
    assert [segment["file"] for segment in found["segments"]] == [entry.file for entry in manifest.segments]
    assert len(found["log_files"]) == len(log_files(store))
    assert found["first_event_us"] <= found["last_event_us"]
    assert [removal["kind"] for removal in found["removals_pending"]] == ["entity"]
    assert [policy["prefix"] for policy in found["policies"]] == ["order-3"]
    with EventStore.open(store, options=OPTIONS) as opened:
        counts = {name: len(list(opened.read(name))) for name in ("shop", "newcomer", "_system")}
        assert found["last_position"] == opened.last_position
    tenants = {tenant["id"]: tenant["events"] for tenant in found["tenants"]}
    # The events of `other` that wait for being removed are still counted.
    assert {name: tenants[name] for name in counts} == counts
    assert set(tenants) == {*counts, "other"}
    assert found["events"] == sum(tenants.values())


def test_inspect_prints_tables_and_no_secret(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = run(capsys, "inspect", store)
    text = "\n".join(lines)
    assert status == 0
    for title in ("tenants:", "segments:", "log files:", "key files:", "pending removals:", "retention policies:"):
        assert title in lines
    assert manifest_of(store).hash_key not in text
    assert manifest_of(store).hash_key not in "".join(run(capsys, "inspect", "--json", store)[1])


def test_of_a_long_table_people_see_the_beginning(store: Path) -> None:
    description = inspect_store(store)
    (pending, *_) = description.removals_pending
    text = description_text(msgspec.structs.replace(description, removals_pending=[pending] * 107))
    lines = [line.split() for line in text.splitlines()]
    assert len([cells for cells in lines if cells[:2] == [str(pending.position), pending.kind]]) == 100
    assert "  … and 7 more; --json has all" in text.splitlines()


def test_inspect_tells_of_damage_that_it_meets(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(log_files(store)[-2], 8 * 60)
    min((store / "segments").glob("*.index")).unlink()
    status, lines, _ = run(capsys, "inspect", store)
    assert status == 1
    assert "faults:" in lines
    flip(store / "MANIFEST", 8 * 60)
    assert run(capsys, "inspect", store)[0] == 1


def test_upgrade_of_a_store_of_this_format_has_nothing_to_do(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(store)
    assert run(capsys, "upgrade", store) == (0, ["the store has format 2 already"], "")
    assert objects(run(capsys, "upgrade", "--json", store)[1]) == [{"kind": "upgraded", "from": 2, "to": 2}]
    assert digest(store) == before


def make_format_1(path: Path) -> Path:
    """A store as release 0.1.0 left it: two events in one log file."""
    (path / "log").mkdir(parents=True, mode=0o700)
    path.chmod(0o700)
    rows = [["order.placed", f"order-{n}", b'{"n":1}', None, [], None, None, 1] for n in range(2)]
    body = msgspec.msgpack.encode(["shop", 1, 1_700_000_000_000_000, rows])
    record = frame(body, FILE_HEADER_BYTES)
    mark = frame(CLOSING_MARK, FILE_HEADER_BYTES + len(record))
    header = encode_file_header(LogFileHeader(1, 1, format_version=1))
    files = {
        "LOCK": b"",
        "STORE": b'{"format":1,"store_id":"6b0b42a4-5d0b-4b7e-8d0f-3f8f2f1d8a11"}',
        "log/000000000001.log": header + record + mark,
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
        (path / name).chmod(0o600)
    return path


def test_a_store_of_format_1_is_verified_inspected_and_upgraded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_format_1(tmp_path / "old")
    before = digest(path)
    assert run(capsys, "verify", path) == (0, ["sound"], "")
    (found,) = objects(run(capsys, "inspect", "--json", path)[1])
    assert (found["format"], found["events"], found["last_position"]) == (1, 2, 2)
    assert digest(path) == before
    assert run(capsys, "upgrade", path) == (0, ["upgraded from format 1 to 2"], "")
    assert run(capsys, "verify", path) == (0, ["sound"], "")
    with EventStore.open(path, options=OPTIONS) as opened:
        assert [event.entity_id for event in opened.read("shop")] == ["order-0", "order-1"]
        opened.append("shop", [event_of("order-1")])
        opened.seal()
    assert run(capsys, "verify", path)[0] == 0


def test_a_damaged_log_of_format_1_is_found_and_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_format_1(tmp_path / "old")
    flip(path / "log" / "000000000001.log", 8 * 60)
    assert run(capsys, "verify", path)[0] == 1
    status, lines, _ = run(capsys, "repair", "--cut-log", path)
    assert (status, lines[-1]) == (0, "sound")
    assert any("will be assigned again" in line for line in lines)


def test_the_module_runs_as_a_program(store: Path) -> None:
    flip(segment_files(store)[0], 8 * 100)
    command = [sys.executable, "-m", "allsource_core.admin", "store", "verify", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("ERROR segments/")
    assert done.stderr == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_alone() -> None:
    for err, shown in ((Terminal(), True), (io.StringIO(), False)):
        output = Output(io.StringIO(), err, json=False)
        output.progress(VerificationProgress("segments", 5, 10))
        output.done("done")
        assert ("segments, 50 %" in err.getvalue()) == shown
