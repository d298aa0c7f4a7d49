"""When queues and schedules are decided on, for one worker.

The rule: here is when, and what follows; what is decided stands in `rules`.
"""
