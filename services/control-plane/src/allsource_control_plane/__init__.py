"""The gateway in front of the AllSource core: the one port that clients see."""
