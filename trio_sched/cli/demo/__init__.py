"""``trio-sched demo``: real hosts on a real etcd, live in the terminal."""
