"""The `attune` command."""
