"""Delivery to other servers: webhooks, trackers, hubs (docs/internals/delivery.md).

No job waits for a delivery. The transaction that stores an event also records the event's deliveries, which are sent
later. The deliverer needs outgoing connections; other workers need them only for judges at `judge_url`.
"""
