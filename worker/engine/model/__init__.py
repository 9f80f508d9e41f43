"""The model that is trained: loading, adapters, attention, batches."""
