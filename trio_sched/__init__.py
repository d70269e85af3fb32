"""trio_sched."""
