"""Executes one run's code, driven by its journal.

The rule: pure. The same code with the same journal asks for the same operations.
"""
