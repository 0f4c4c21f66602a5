"""The HTTP face of the core: thin; everything that is not HTTP is in the packages below."""
