"""A host of the demo that has no reaper, and a lease of two seconds; run as a module."""

from __future__ import annotations

import json
import sys

import trio

from trio_sched.cli.demo import story

if __name__ == "__main__":
    story.TTL, story.REAPER = 2, False
    trio.run(story.host, *json.loads(sys.argv[1]))
