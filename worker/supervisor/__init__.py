"""Supervision: claim → fetch → run a child → hand over what it made. No torch on this side of the wall."""
