"""What is below a path, for people and for programs: ``status``, ``watch``, ``members``."""
