"""Which runtimes the contract tests run engines of."""

from __future__ import annotations

from deploy.engine import Runtime
from deploy.engines.sessions import EXECUTED_SUFFIX, SESSIONS
from tests.marks import HAS_COMPILER

RUN_ON_CPU = [r for r in Runtime if not r.compiles and (r is not Runtime.TORCH or HAS_COMPILER)]
"""Those whose engines run on any machine; engines of the others are built and audited in tests of their own."""

TIMED_ON_CPU = [runtime for runtime in RUN_ON_CPU if runtime.why_not_timed is None]
"""Those of them whose time is one of a device."""

IN_BUNDLES = [runtime for runtime in TIMED_ON_CPU if runtime in SESSIONS]
"""Those of them whose engines a bundle carries."""

TELL_EXECUTED = [runtime for runtime in IN_BUNDLES if runtime in EXECUTED_SUFFIX]
"""Those of them that tell on any machine what they execute there."""

TELL_TIMES = [runtime for runtime in Runtime if runtime.tells_node_times]
"""Those that tell the time of each node."""
