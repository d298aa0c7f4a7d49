"""How the garbage collector works in a process that is a worker and nothing else.

By default Python looks at all young objects whenever 700 more were made than freed (2,000 in some releases), and a
worker makes objects that live as long as a step under way: each look finds them alive. Steps and runs leave no cycles
(`tests/engine/test_no_cycles.py`), so looking seldom costs no memory but what the steps themselves leave.
"""

from __future__ import annotations

import gc
from typing import Final

#: When a worker collects: the young objects that there must be more, and how often each older generation is looked at.
#: W2's shape (CPU of a step, three rounds in turns): default 1.0; (10,000, 10, 10) 0.79 to 0.92; these 0.79 to 0.92 in
#: the first two and 0.85 in the quiet third; (100,000, 50, 100) 0.57 to 0.82; no collector at all 0.81 to 0.95.
#: Twice as many gain nothing that is seen beyond the noise, and let twice the garbage of a step pile up.
WORKER_THRESHOLDS: Final = (50_000, 20, 50)

#: Python's own, as they were before a module of the user was imported.
_PYTHONS_OWN: Final = gc.get_threshold()


def own_the_process() -> None:
    """Put what is imported out of the collector's sight, and let it look seldom; to be called after the imports.

    Where one of the user's modules has set the thresholds, or turned the collector off, that stands.
    """
    if not gc.isenabled() or gc.get_threshold() != _PYTHONS_OWN:
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(*WORKER_THRESHOLDS)
