"""Decisions: testable without HTTP. Each loads, decides, writes in one transaction, and rings after the commit."""
