"""``make run``: both services with generated development secrets, until Ctrl-C.

They read the configuration file, the environment and the flags just as they do when they are started one by one;
only what is missing is added (`development.py`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from allsource_control_plane.settings import ControlPlaneSettings
from allsource_core.settings import CoreSettings
from allsource_shared.configuration import ConfigurationError, argument_parser, load_settings, variable_name
from tools.child import describe_exit
from tools.development import DEV_DIR, Development, is_configured, prepare
from tools.ports import free_ports, is_free
from tools.stack import Stack, StackError

__all__ = ["main"]

# A store that was not stopped cleanly is recovered first; how long that takes depends on its size.
_READY_TIMEOUT_SECONDS: Final = 600.0
_FOREVER: Final = float("inf")


class _StopRequested(BaseException):
    """Ctrl-C or SIGTERM; not an `Exception`, so that nothing on the way handles it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until asked to stop.

    Returns:
        0 after Ctrl-C or SIGTERM and a clean end of both; 1 if one did not start, ended by itself or did not end
        cleanly; 2 for a configuration that can't be used.
    """
    parser = argument_parser("make run", "Start the core and the gateway with development secrets.")
    parser.add_argument("--dev-dir", type=Path, default=DEV_DIR, help="where secrets and data are kept")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _request_stop)
    try:
        development = prepare(options.dev_dir, config=options.config, environ=os.environ, flags=options.flags)
        stack = _configure(options.config, options.flags, development)
    except ConfigurationError as error:
        for problem in error.problems:
            _complain(problem)
        return 2
    except OSError as error:
        _complain(str(error))
        return 2
    except _StopRequested:
        return 0
    return _run(stack, development)


def _configure(config: Path | None, flags: Sequence[str], development: Development) -> Stack:
    """The stack that the configuration describes, not started.

    Raises:
        ConfigurationError: with every mistake, ports that are in use included.
    """
    environ = development.environ
    problems: list[str] = []
    core = gateway = None
    try:
        core = load_settings(CoreSettings, config_path=config, environ=environ, flags=flags)
    except ConfigurationError as error:
        problems += error.problems
    try:
        gateway = load_settings(ControlPlaneSettings, config_path=config, environ=environ, flags=flags)
    except ConfigurationError as error:
        problems += [problem for problem in error.problems if problem not in problems]
    if core is None or gateway is None:
        raise ConfigurationError(problems)
    any_core, any_gateway = free_ports(2)
    core_port = core.server.port or any_core
    gateway_port = gateway.gateway.port or any_gateway
    problems += _port_problems(core.server.host, core_port, "server")
    problems += _port_problems(gateway.gateway.host, gateway_port, "gateway")
    if core_port == gateway_port:
        problems.append(f"server.port and gateway.port are both {core_port}: set one of them to another port")
    if problems:
        raise ConfigurationError(problems)
    elsewhere = is_configured("gateway", "core_url", config=config, environ=environ, flags=flags)
    return Stack(
        Path(core.storage.data_dir),
        environ={name: value for name, value in environ.items() if name.startswith("ALLSOURCE_")},
        config=config,
        flags=flags,
        core_host=core.server.host,
        core_port=core_port,
        gateway_host=gateway.gateway.host,
        gateway_port=gateway_port,
        core_url=gateway.gateway.core_url if elsewhere else None,
        ready_timeout_seconds=_READY_TIMEOUT_SECONDS,
    )


def _port_problems(host: str, port: int, section: str) -> list[str]:
    setting = f"{section}.port ({variable_name(section, 'port')}=… or --set {section}.port=…)"
    try:
        if is_free(host, port):
            return []
    except OSError as error:
        return [f"can't listen on {host} port {port}: {error.strerror or error}; see {section}.host and {setting}"]
    return [f"port {port} on {host} is in use: stop what uses it, or set {setting}"]


def _run(stack: Stack, development: Development) -> int:
    """Start, wait, stop."""
    code = 1
    told = ""
    try:
        try:
            stack.start()
            print(_welcome(stack, development), flush=True)
            ended = stack.wait_for_exit(_FOREVER)
            if ended is not None:
                told = f"{ended[0]} {describe_exit(ended[1])}"
                _complain(f"{told}, though nobody asked it to; stopping the other")
        except _StopRequested:
            code = 0
            print("\nstopping both; Ctrl-C again kills them", flush=True)
        except StackError as error:
            _complain(str(error))
        stack.stop()
    except _StopRequested:
        _ignore_signals()
        stack.kill()
        _complain("killed both")
        return 1
    except StackError as error:
        if str(error) != told:
            _complain(str(error))
        return 1
    if code == 0:
        print("both have stopped", flush=True)
    return code


def _request_stop(_number: int, _frame: FrameType | None) -> None:
    raise _StopRequested


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _complain(message: str) -> None:
    print(f"make run: {message}", file=sys.stderr, flush=True)


def _welcome(stack: Stack, development: Development) -> str:
    """How to use what has just been started, ready to be pasted into a shell."""
    url = stack.gateway_url
    lines = ["", f"AllSource is ready:  gateway {url}   core {stack.core_url}   API {url}/openapi.json", ""]
    if development.password_file is not None:
        file = _shown(development.password_file)
        if _signs_in(stack.core_url, development):
            lines += [f"The first start made the user {development.username}; the password is in {file}. Sign in:", ""]
        else:
            lines += [
                f"The store was made earlier, with another administrator than {development.username} with the password",
                f"in {file}: sign in as that one. (`make clean` removes the development store.) With the right file:",
                "",
            ]
        lines += [
            f'  token=$(printf \'{{"username":"{development.username}","password":"%s"}}\' "$(cat {file})" \\',
            f"    | curl -s {url}/api/v1/auth/login -H 'Content-Type: application/json' -d @- \\",
            "    | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"token\"])')",
        ]
    else:
        lines += [f"Sign in at {url}/api/v1/auth/login with the admin that you configured; keep the token in $token."]
    lines += [
        "",
        "Append an event, and read it back:",
        "",
        f"  curl -sw '\\n' {url}/api/v1/events -H \"Authorization: Bearer $token\" \\",
        "    -H 'Content-Type: application/json' \\",
        '    -d \'{"event_type": "order.placed", "entity_id": "order-1", "payload": {"total": 42}}\'',
        f"  curl -sw '\\n' '{url}/api/v1/events/query?entity_id=order-1' -H \"Authorization: Bearer $token\"",
        "",
        "Ctrl-C stops both.",
        "",
    ]
    return "\n".join(lines)


def _signs_in(core_url: str, development: Development) -> bool:
    """Whether the generated password is the administrator's: it is not if its file was lost and made again."""
    assert development.password_file is not None
    password = development.password_file.read_text(encoding="utf-8").strip()
    body = json.dumps({"username": development.username, "password": password}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{core_url}/api/v1/auth/login", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except OSError:
        return False


def _shown(path: Path) -> str:
    """As short as it can be pasted from here."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
