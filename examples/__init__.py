"""Programs that use AllSource from outside, as its users do."""
