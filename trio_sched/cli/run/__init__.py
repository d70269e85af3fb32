"""``trio-sched run``: a command that runs only while this host is scheduled."""
