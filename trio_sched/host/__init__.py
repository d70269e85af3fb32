"""One host's life on a path: session, join, election, leading, following, slots, work, result."""
