"""Users, their passwords, and signing in."""
