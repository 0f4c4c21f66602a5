"""The AllSource core: the event store's engine and its HTTP service."""
