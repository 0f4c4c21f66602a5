"""Has a gateway that finds this on its path wait for what the core says of a credential longer than a machine pauses.

How long it really waits is asked in the tests of the package. What it believes, and for how long, is as it always is.
"""

import sys

if "allsource_control_plane" in sys.orig_argv:
    from allsource_control_plane.gateway import internal_client

    internal_client._INTROSPECT_SECONDS = 60.0
