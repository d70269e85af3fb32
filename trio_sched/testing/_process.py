"""A child process that does not outlive this one, whatever way this one dies.

How: etcd is started through ``sh``, which forks a watchdog and then *becomes* etcd by exec. The
watchdog blocks in a read on a pipe that only this process can write to. A clean end writes a line,
and the watchdog goes. If this process is gone without a word, even by SIGKILL, the kernel closes
the pipe, the read ends without a line, and the watchdog kills etcd and removes its folder.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that forked ends, and `trio.run` may well be in
a worker thread; and it can only be set between fork and exec, by a ``preexec_fn``, which is unsafe
in a process with threads. A watchdog started beside etcd, and not by it, would leave a moment in
which there is none.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import trio

from trio_sched._support.processes import wait_ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["ChildProcess"]

# `sh` gives a background job /dev/null for stdin, so the pipe is moved to descriptor 3 first.
# `$$` in the subshell is still the shell's own pid: that of the program to be.
# `$0` is the folder.
_LAUNCHER = """\
exec 3<&0 </dev/null
(read -r _ <&3 || { kill -9 $$; rm -rf "$0"; }) &
exec "$@" 3<&-
"""

_REAP_SECONDS = 10  # SIGKILL cannot be refused; only a sick kernel needs longer


class ChildProcess:
    """A program in a session of its own, so that a Ctrl-C in the terminal does not reach it.

    Its folder is where it runs, and is removed if this process dies without ending it.

    Everything but `wait` is synchronous and may be called from any thread, one at a time.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        with log.open("ab") as output:
            self._popen = subprocess.Popen(  # noqa: S603 # the caller's own command
                ["/bin/sh", "-c", _LAUNCHER, str(folder), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Id of the process; of a dead one too."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet. Reaps it if it has."""
        if self._popen.poll() is None:
            return True
        self._release_watchdog()
        return False

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            self._popen.send_signal(number)

    def pause(self) -> None:
        """Stop it with SIGSTOP, and return when all of it stands still: some microseconds."""
        self.send_signal(signal.SIGSTOP)
        if self.running:
            # Left for `poll` to reap, if it ends instead.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """End it at once, paused or not, and reap it. Takes some milliseconds."""
        self.send_signal(signal.SIGKILL)
        self._popen.wait(_REAP_SECONDS)
        self._release_watchdog()

    async def wait(self) -> None:
        """Wait until it has ended, and reap it. Cancellation leaves it as it is."""
        await trio.lowlevel.checkpoint()
        while self.running:
            await wait_ended(self._popen.pid)

    def _release_watchdog(self) -> None:
        """Send the watchdog home. It must not shoot: the pid may be another's by now."""
        pipe = self._popen.stdin
        if pipe is not None and not pipe.closed:
            try:
                os.write(pipe.fileno(), b"\n")
            except BrokenPipeError:
                pass  # someone has killed the watchdog as well
            finally:
                pipe.close()
