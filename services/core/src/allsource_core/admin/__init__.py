"""``allsource-admin``: what is done to a store beside serving it. docs/admin.md."""
