"""The way of a request through the gateway: `entry` judges it, `forwarder` takes it to the core and back."""
