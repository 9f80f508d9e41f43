"""Memory of the training process: its peak, its return to the system, and a retry when it runs out."""
