"""``python -m trio_sched`` is ``trio-sched``."""

from trio_sched.cli import main

if __name__ == "__main__":
    main()
