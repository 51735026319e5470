"""How this program is called."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def this_program() -> list[str]:
    """The one beside this Python; a package that is only on the path has none."""
    beside = shutil.which("trtdisagg", path=str(Path(sys.executable).parent))
    return [beside] if beside else [sys.executable, "-m", "trtdisagg"]
