"""`attune adapters verify`: checks of published files without a server."""
