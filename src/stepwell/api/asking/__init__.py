"""What callers write, checked and made into requests.

The rule: nothing waits here and nothing is read; what is not acceptable is refused before the engine hears of it.
"""
