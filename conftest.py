"""For the tests of every package."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes is the machine's business: a test that hangs meets the time limit of pytest.
settings.register_profile("allsource", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("allsource")
