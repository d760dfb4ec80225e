"""L4: command-line entry points."""
