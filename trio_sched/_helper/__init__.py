"""Programs that run as processes of their own, on the standard library alone.

``reap`` outlives the process that it was started by, and ``exec_child`` becomes another program.
Neither may cost the time and the memory that Trio and the etcd client need, so nothing in here
imports anything of the package but its neighbours. `helper_command` starts Python without the
package around it: without its ``__init__``, which would import all of it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["helper_command"]

# A module that only has a path stands for the package.
_BOOT = """\
import sys
package = type(sys)("trio_sched")
package.__path__ = [sys.argv.pop(1)]
sys.modules["trio_sched"] = package
from trio_sched._helper.{0} import main
main()
"""


def helper_command(module: str, *args: str) -> list[str]:
    """Return the command that runs ``main()`` of a module in here.

    Isolated and without ``site``: nothing of the user's own is imported, and it
    starts in the third part of the time.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return [sys.executable, "-I", "-S", "-c", _BOOT.format(module), package, *args]
