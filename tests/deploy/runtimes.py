"""Which runtimes the contract tests run engines of."""

from __future__ import annotations

from deploy.engine import Runtime
from deploy.engines.sessions import SESSIONS

RUN_ON_CPU = [runtime for runtime in Runtime if not runtime.compiles]
"""Those whose engines run on any machine; engines of the others are built and audited in tests of their own."""

TIMED_ON_CPU = [runtime for runtime in RUN_ON_CPU if runtime.why_not_timed is None]
"""Those of them whose time is one of a device."""

IN_BUNDLES = [runtime for runtime in TIMED_ON_CPU if runtime in SESSIONS]
"""Those of them whose engines a bundle carries."""

TELL_TIMES = [runtime for runtime in Runtime if runtime.tells_node_times]
"""Those that tell the time of each node."""
