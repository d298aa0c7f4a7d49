"""Where attempts of steps execute: on an event loop, in threads, in child processes.

The rule: a step call goes in, how it ended comes out; what follows from that is decided elsewhere.
"""
