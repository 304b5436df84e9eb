"""Which runtimes the contract tests run engines of."""

from __future__ import annotations

from bitwright.foundation.errors import MissingPackageError
from deploy.engine import Runtime
from deploy.engines.sessions import SESSIONS
from deploy.torch_aot.compile import require_compiler


def _no_compiler() -> str | None:
    try:
        require_compiler()
    except MissingPackageError as error:
        return str(error)
    return None


NO_COMPILER = _no_compiler()
"""Why no torch engine can be made on this machine; None where one can."""

RUN_ON_CPU = [r for r in Runtime if not r.compiles and (r is not Runtime.TORCH or NO_COMPILER is None)]
"""Those whose engines run on any machine; engines of the others are built and audited in tests of their own."""

TIMED_ON_CPU = [runtime for runtime in RUN_ON_CPU if runtime.why_not_timed is None]
"""Those of them whose time is one of a device."""

IN_BUNDLES = [runtime for runtime in TIMED_ON_CPU if runtime in SESSIONS]
"""Those of them whose engines a bundle carries."""

TELL_TIMES = [runtime for runtime in Runtime if runtime.tells_node_times]
"""Those that tell the time of each node."""
