"""Makes the report of one sweep or several from what lies in their folders: pictures, and a page with all of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.bench.sweep.page import page
from trtdisagg.bench.sweep.pictures import draw
from trtdisagg.bench.sweep.results import Results, gather
from trtdisagg.errors import StartupError

PAGE = "report.html"


def write_report(folders: Sequence[Folder], directory: Path) -> Results:
    """
    :param directory: where to; a report that is there is replaced.
    :raises StartupError: it cannot be written.
    """
    results = gather(folders)
    pictures = list(draw(results))
    files = {f"{picture.name}.png": picture.png for picture in pictures}
    files[PAGE] = page(results, pictures).encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            part = directory / f".{name}.{os.getpid()}"
            part.write_bytes(data)
            part.replace(directory / name)
    except OSError as e:
        raise StartupError(f"{directory} cannot be written: {e.strerror}") from e
    return results
