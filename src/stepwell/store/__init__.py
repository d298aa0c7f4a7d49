"""Keeps everything: the five protocols that a store implements, and the stores.

The rule: a store applies changes and answers questions. It decides nothing: where a decision is made inside a
transaction, the deciding function is pure and belongs to the worker package.
"""
