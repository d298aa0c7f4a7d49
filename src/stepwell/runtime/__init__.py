"""One engine's thread: real time, turns, requests, and whoever waits for answers.

The rule: here a clock, a thread and a store meet. `turn` has no clock and no thread, and a store only by its
protocols: events in, one commit, effects out.
"""
