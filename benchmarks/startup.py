"""What it costs to begin: imports as a ratio to Trio's, and the command; ``-- startup`` for nox.

CPU of a process of its own, the least of many, taken in turns: what else runs on the machine makes
a process slower, and never faster.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

ROUNDS = 30
# Byte code is kept, as where it is installed: to compile ours takes as long as to import it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
NO_ETCD = "http://127.0.0.1:1"
TRIO, CLIENT = "import trio", "from trio_sched import open_client"
COMMAND = "from trio_sched.cli import main; import sys; sys.argv = {}; main()"
PROGRAMS = {
    TRIO: TRIO,
    CLIENT: CLIENT,
    "trio-sched --help": COMMAND.format(["trio-sched", "--help"]),
    "trio-sched status": COMMAND.format(["trio-sched", "status", "/x", "--endpoints", NO_ETCD]),
}
# What is aimed at, in ms; that of the client's import is a ratio to Trio's.
MOST = {CLIENT: 1.35, "trio-sched --help": 100.0, "trio-sched status": 200.0}


def cpu_of(program: str) -> float:
    """Run a program and return its CPU time in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603 # programs of ours
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,  # there is no etcd for `status`
        env=ENVIRONMENT,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def main() -> None:
    """Print a line for each."""
    least = {name: cpu_of(program) for name, program in PROGRAMS.items()}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            least[name] = min(least[name], cpu_of(program))
    for name, cpu in least.items():
        ratio = f"{cpu / least[TRIO]:5.2f} x Trio's"
        aim = f"at most {MOST[name]:g}" if name in MOST else ""
        print(f"{name:40} {cpu:6.0f} ms  {ratio}  {aim}")


if __name__ == "__main__":
    main()
