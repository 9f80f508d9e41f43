"""Export of the trained model, the checks of its files, and its model card."""
