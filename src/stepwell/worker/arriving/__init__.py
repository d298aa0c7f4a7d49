"""What reaches the runs of a worker, and what it leads to.

The rule: each module takes one kind of news (a commit, a note of another worker, the end of an attempt, a time that has
come, a run that is read) and hands it to `running`; nothing here is asked by what is below.
"""
