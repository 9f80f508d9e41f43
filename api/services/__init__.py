"""Services: decisions that can be tested without HTTP.

Each loads rows, decides, writes in one transaction, then notifies workers.
"""
