"""The other processes on the same file: who they are, whether they live, what they tell each other.

The rule: news is a hint to look; only the file says what is so.
"""
