"""What hosts and paths say of themselves to others, over HTTP."""
