"""Attune's HTTP side: records, storage, the catalogues of what can be asked for. Never imports torch or worker."""
