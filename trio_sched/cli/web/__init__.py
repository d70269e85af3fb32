"""``trio-sched web``: paths in a browser, live."""
