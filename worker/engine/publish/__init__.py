"""Export of the trained model, its proof and its card."""
