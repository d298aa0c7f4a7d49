"""Where this package is: what tells its own frames, in a traceback or a stack, from those of the user's code.

One constant, here at the root, so that moving a module into a folder changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: The folder of the package, with a separator at its end: what a file name of this package begins with.
ROOT: Final = f"{Path(__file__).parent}{os.sep}"
