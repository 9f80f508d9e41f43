"""What a worker runs: the torch-free supervisor, which holds the lease, and its children behind the wall."""
