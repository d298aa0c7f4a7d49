"""One engine's thread: real time, turns, requests, and whoever waits for answers.

The rule: here alone a clock, a thread and a store meet. `turn` itself has none of them: events in, one commit, effects
out.
"""
