"""Delivery to other servers: webhooks, trackers, hubs.

No job waits for a delivery. It is recorded in the transaction of the event that it is about, and sent later. Only this
part of a worker needs outgoing connections.
"""
