from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from allsource_control_plane.settings import ControlPlaneSettings
from allsource_core.settings import CoreSettings
from allsource_shared.configuration import describe_keys, load_settings, variable_name
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import Role
from allsource_shared.problems import PROBLEMS
from tools.configuration_page import EXAMPLE, configuration_page
from tools.generate_docs import PAGES, errors_page, main, permissions_page


class Auth(msgspec.Struct):
    """Who."""

    ratio: Annotated[float, Meta(gt=0, le=1, description="A ratio | part.")] = 0.5
    jwt_secret: Annotated[str, Meta(min_length=8, description="A key.", extra={"secret": True})] = ""
    mode: Annotated[Literal["on", "auto"], Meta(description="A mode.")] = "on"


class Settings(msgspec.Struct):
    auth: Auth


class SilentAuth(msgspec.Struct):
    """Who."""

    silent: int = 1


class SilentSettings(msgspec.Struct):
    auth: SilentAuth


def test_every_setting_of_both_services_is_on_the_page() -> None:
    page = PAGES["configuration.md"]()
    for settings in (CoreSettings, ControlPlaneSettings):
        for section, key, _ in describe_keys(settings):
            assert f"`{variable_name(section, key)}`" in page


@pytest.mark.parametrize("settings", [CoreSettings, ControlPlaneSettings])
def test_the_example_is_a_configuration_that_the_service_takes(settings: type[msgspec.Struct], tmp_path: Path) -> None:
    path = tmp_path / "allsource.toml"
    path.write_text(EXAMPLE)
    load_settings(settings, config_path=path, environ={})


def test_a_key_is_described_with_its_range_and_as_a_secret() -> None:
    page = configuration_page({"core": Settings})
    assert "| `ratio` | `ALLSOURCE_AUTH__RATIO` | number, more than 0 to 1 | `0.5` | A ratio \\| part. |" in page
    assert (
        "| `jwt_secret` | `ALLSOURCE_AUTH__JWT_SECRET` or `ALLSOURCE_AUTH__JWT_SECRET_FILE` "
        "| text, at least 8 characters, secret | not set | A key. |" in page
    )
    assert '| `mode` | `ALLSOURCE_AUTH__MODE` | `on`, `auto` | `"on"` | A mode. |' in page


def test_a_key_that_the_other_service_reads_too_says_so() -> None:
    page = PAGES["configuration.md"]()
    assert "Read by: control plane; `key` also by the core." in page
    assert page.count("`ALLSOURCE_GATEWAY__KEY`") == 1


def test_a_setting_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match="without a description"):
        configuration_page({"core": SilentSettings})


def test_every_error_and_every_route_has_a_row() -> None:
    errors, permissions = errors_page(), permissions_page()
    for code in PROBLEMS:
        assert f"| `{code}` |" in errors
    for route in CORE_ROUTES:
        assert f"| `{route.method} {route.path}` |" in permissions
    for role in Role:
        assert f"| `{role}` |" in permissions


def test_a_stale_page_fails_the_check_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--directory", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    (tmp_path / "errors.md").write_text("old")
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    assert "errors.md is not up to date" in capsys.readouterr().err
    assert (tmp_path / "errors.md").read_text() == "old"
