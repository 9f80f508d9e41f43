"""Services: the decisions behind the endpoints, testable without HTTP.

A service loads rows, decides, writes in one transaction, and then notifies workers.
"""
