"""Other people's tests of asyncio code, run as the bodies of workflows.

CPython's tests of what workflow code uses of asyncio, and anyio's of its task groups, synchronisation and streams, say
what that code may rely on. Here each of them is the body of a workflow, three times: live, with the run leaving memory
at each wait, and with the process dying at each operation. ``python -m conformance`` (`make conformance`) runs them,
compares what does not pass with `known.txt`, and makes the table in ``docs/reference/conformance.md``.

None of the tests is part of this repository: CPython's come with the interpreter, anyio's with its source distribution.
"""
