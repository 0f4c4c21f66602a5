"""Programs for those who develop or try AllSource; nothing here is part of a service."""
