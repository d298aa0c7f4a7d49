"""Requests, and how each is served.

The rule: a request is a value; serving it adds to the batch of the turn, and its answer comes after the commit. The one
door is `request_gate`.
"""
