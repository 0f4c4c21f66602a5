"""Tenants: who they are, how much they may use, and how fast."""
