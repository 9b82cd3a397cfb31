"""Zip archives that others made (wheels, npz, pt), looked at before anything is unpacked.

A bomb, a name that leaves the folder, and a broken archive are one-sentence errors. Knows nothing of what they hold.
"""

import zipfile
from pathlib import Path

from saelab.core.errors import ArtefactError
from saelab.store.paths import inside

# Weights hardly compress: float32 noise loses a tenth, an all-zero bias vanishes, and no SAE is mostly zeros. Text
# shrinks to a tenth.
MOST_INFLATION = 20


def check_archive(path: Path, *, most: int = MOST_INFLATION) -> int:
    """The bytes that an archive unpacks to; a bomb or a name that leaves the folder is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ArtefactError(f"{path} is not a whole archive: {error}.") from None
    for item in items:
        inside(path.parent, item.filename, origin=str(path))
    total, size = sum(i.file_size for i in items), path.stat().st_size
    if total > most * size + 1_000_000:
        raise ArtefactError(f"{path} has {size:,} bytes and would unpack to {total:,}; it was not opened.")
    return total
