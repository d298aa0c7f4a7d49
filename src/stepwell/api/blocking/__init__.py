"""What code without asyncio holds of an engine.

The rule: here is only how a thread asks and waits; what both worlds share stands beside it, in `api`.
"""
