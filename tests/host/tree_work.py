"""Work that is a tree of processes, for the soak test: ``tree_work.py LOG BEATS WORDS``.

It writes WORDS, a JSON object, to LOG as its beginning. Each of its processes, in sessions of their
own and deaf to SIGTERM, keeps writing the time to a file of its own in the folder BEATS: the last
of these is when the work has ended, for nothing can write down that it was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

EVERY = 0.01  # seconds


def main() -> None:
    log, beats, text = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    words = json.loads(text)
    os.mkdir(beats)  # noqa: PTH102 # without `site` it begins sooner
    beat = Beat(beats)
    words["at"] = time.monotonic()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, json.dumps(words).encode() + b"\n")  # at once and whole
    if not os.fork():  # a daemon: its parent ends
        os.setsid()
        if os.fork():
            os._exit(0)
        beat = Beat(beats)
    elif not os.fork():  # a session of its own
        os.setsid()
        beat = Beat(beats)
    beat.go_on()


class Beat:
    """The file of a process."""

    def __init__(self, folder: str) -> None:
        self._descriptor = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        self._write()

    def go_on(self) -> None:
        while True:
            time.sleep(EVERY)
            self._write()

    def _write(self) -> None:
        os.pwrite(self._descriptor, b"%020.9f" % time.monotonic(), 0)


if __name__ == "__main__":
    main()
