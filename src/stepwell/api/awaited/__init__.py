"""What asyncio code holds of an engine: the same as `blocking`, awaited.

The rule: the caller's loop never waits for the disk; see `loop_caller`.
"""
