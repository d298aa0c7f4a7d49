"""The durable source indexer of `examples/index_source.py`, one concern a module.

``analysis``   what is learnt from source files, and how it adds up; pure functions on values.
``workflows``  the same as durable workflows and steps.
``worker``     the process that runs them, and that may be killed at any time.
``driver``     starts workers, kills them, and starts them again.
``ledger``     what the driver reads: the workers' side files and, read-only, the Stepwell file.
``verdict``    what these readings prove; pure.
``console``    progress and the closing report.
"""
