"""The batch worker: a process that answers the requests of batches in the background, as the API would."""
