"""Access to the outside: object storage, broker, outgoing HTTP and child processes."""
