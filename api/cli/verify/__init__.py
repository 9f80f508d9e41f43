"""`attune adapters verify`: checks of published files, offline."""
