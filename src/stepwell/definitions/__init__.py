"""Inert objects that a user's module makes: workflows, steps, queues, limits.

The rule: defining something only gives it a name; no engine and no run is needed, and nothing is changed later. Two
modules concern the moment of a call: `invoke`, which calls the user's functions, and `step_call`, one call
of a step with its attempts.
"""
