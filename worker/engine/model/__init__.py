"""The trained model: loading, adapters, attention, micro-batches."""
