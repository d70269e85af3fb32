"""Programs that run as processes of their own, on the standard library alone.

``reap`` and ``keep`` outlive the process that they were started by, and tidy up after it.
Neither may cost the time and the memory that Trio and the etcd client need, so nothing in here
imports anything of the package but its neighbours. `helper_command` starts Python without the
package around it: without its ``__init__``, which would import all of it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["helper_command"]

# Modules that only have a path stand for the packages around.
_BOOT = """\
import sys
path = sys.argv.pop(1)
for name in ("trio_sched", "trio_sched.reaper"):
    package = type(sys)(name)
    package.__path__ = [path + name[len("trio_sched"):].replace(".", "/")]
    sys.modules[name] = package
from trio_sched.reaper.helper.{0} import main
main()
"""


def helper_command(module: str, *args: str) -> list[str]:
    """Return the command that runs ``main()`` of a module in here.

    Isolated and without ``site``: nothing of the user's own is imported, and it
    starts in the third part of the time.
    """
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 # no import of pathlib
    package = os.path.dirname(os.path.dirname(here))  # noqa: PTH120 # the same
    return [sys.executable, "-I", "-S", "-c", _BOOT.format(module), package, *args]
