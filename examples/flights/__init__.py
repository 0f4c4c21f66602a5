"""The flights that left New York in 2013, as events: load them through the gateway, then ask the store."""
