"""Where attempts of steps execute: on an event loop, in threads, in child processes.

The rule: a step call goes in, its outcome comes out; what follows from the outcome is decided elsewhere.
"""
