"""A gateway on real sockets for every test, with a core behind it that the test scripts."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import pytest_asyncio
import uvloop

from allsource_control_plane.app import open_gateway
from allsource_control_plane.gateway import core_client, internal_client, known_principals
from allsource_control_plane.server import create_server, wait_until_accepting
from allsource_control_plane.settings import ControlPlaneSettings, GatewaySettings
from allsource_shared.settings import LoggingSettings
from tools.ports import free_ports

from .wire import GATEWAY_KEY, FakeCore, Gateway

PATIENCE_SECONDS = 100


class PatientCoreClient(core_client.CoreClient):
    """What asks whose a credential is, and what has changed: a bound that a test sets is of requests it forwards."""

    def __init__(self, settings):
        super().__init__(msgspec.structs.replace(settings, response_timeout_seconds=PATIENCE_SECONDS))


def pytest_asyncio_loop_factories(config, item):
    """The loop that the service runs on: it differs from asyncio's in how it sees the end of a connection."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def patience():
    """The gateway waits for the core, and believes it, for longer than the process that runs both of them ever pauses.

    A test about these bounds takes them back with `undo`.
    """
    with pytest.MonkeyPatch.context() as patience:
        patience.setattr(internal_client, "CoreClient", PatientCoreClient)
        patience.setattr(internal_client, "_CHANGES_SECONDS", PATIENCE_SECONDS)
        patience.setattr(core_client, "_PROBE_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        patience.setattr(core_client, "_KEEPALIVE_SECONDS", PATIENCE_SECONDS)
        patience.setattr(known_principals, "FRESH_SECONDS", PATIENCE_SECONDS)
        yield patience


@pytest_asyncio.fixture
async def core():
    """A core that answers 200 unless its `behaviour` is set."""
    fake = FakeCore()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def start_gateway(core, patience):
    """Starts gateways in front of `core`, with the settings of `[gateway]` given as keywords."""
    running = []

    async def start(logging=None, **settings):
        [port] = free_ports(1)
        core_url = f"http://127.0.0.1:{core.port}"
        waits = {"connect_timeout_ms": 60_000, "introspect_timeout_ms": 60_000}
        settings = {"key": GATEWAY_KEY, "core_url": core_url, **waits, **settings}
        gateway = GatewaySettings(port=port, **settings)
        opened = open_gateway(ControlPlaneSettings(gateway=gateway, logging=logging or LoggingSettings()))
        entry = await opened.__aenter__()
        server = create_server(entry, "127.0.0.1", port, gateway)
        running.append((opened, server, asyncio.create_task(server.serve())))
        await wait_until_accepting("127.0.0.1", port)
        return Gateway(port)

    yield start
    for opened, server, serving in running:
        server.stop()
        await core.stop()
        async with asyncio.timeout(60):
            await serving
        await opened.__aexit__(None, None, None)


@pytest_asyncio.fixture
async def gateway(start_gateway):
    """A gateway with default settings, but for its patience."""
    return await start_gateway()
