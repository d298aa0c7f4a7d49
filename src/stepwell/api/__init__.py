"""The objects that users hold: engines, handles of runs, and the options that they take.

The rule: calls go down as requests, answers come back as values; nothing is decided here.
"""
