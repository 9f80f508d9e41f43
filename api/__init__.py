"""Attune's API: records, storage, and the catalogues of techniques and methods. Never imports torch or `worker`."""
