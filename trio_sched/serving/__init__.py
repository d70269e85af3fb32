"""What hosts and paths say of themselves to others, over HTTP."""

from trio_sched._support.lazy import homes, lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.serving.address import CannotListen as CannotListen
    from trio_sched.serving.status import serve_status as serve_status

# Where each name lives; its module is imported when the name is asked for first.
_HOMES = homes(
    {
        "trio_sched.serving.address": "CannotListen",
        "trio_sched.serving.status": "serve_status",
    }
)

__all__ = [*_HOMES]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # strings all
if not TYPE_CHECKING:  # else any name would be taken for one of ours
    __getattr__, __dir__ = lazy(__name__, _HOMES)
