"""The group of commands."""

from __future__ import annotations

import importlib.metadata

import click

from .demo import demo
from .run import run

__all__ = ["command"]


def _version() -> str:
    try:
        return importlib.metadata.version("trio-sched")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"  # run from a checkout


@click.group(name="trio-sched", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), message="%(prog)s %(version)s")
def command() -> None:
    """Which of us should run this, now? A host scheduler on etcd."""


command.add_command(demo)
command.add_command(run)
