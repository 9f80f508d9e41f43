"""Storage, broker, outgoing HTTP, child processes."""
