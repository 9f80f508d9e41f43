"""The batch worker: a process that answers the requests of batches as the API would, in the background."""
