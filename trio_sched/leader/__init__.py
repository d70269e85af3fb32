"""What the leader of a path decides, and why; what `status` and `decide` make of it. Pure."""
