"""One engine's turns: real time, requests, and the callers that wait for answers.

The rule: here a clock, a thread and a store meet. `turn` has no clock and no thread, and a store only by its
protocols: events in, one commit, effects out.
"""
