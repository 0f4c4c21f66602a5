"""What both services agree on: roles, routes, wire structs, errors, tokens, paths, configuration and logs."""

__version__ = "0.3.0"
