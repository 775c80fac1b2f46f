"""What the operating system refuses, in the user's words: the one place that knows its error numbers."""

from __future__ import annotations

import errno
import os

from peftbench.foundation.errors import BadInput, PeftbenchError, brief

# number -> what to do. Those of the second table are no fault of the words: the same command may work later.
_WRONG_PATH = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file stands where a folder is needed; check the path",
    errno.EISDIR: "it is a folder, a file is needed; check the path",
    errno.ENAMETOOLONG: "no file system takes so long a name; choose a shorter one",
    errno.ELOOP: "it is a link that leads back to itself; put the file itself there",
    errno.EACCES: "give yourself the right to it, or choose another place",
    errno.EPERM: "give yourself the right to it, or choose another place",
    errno.EROFS: "nothing can be written there; choose another place",
    errno.EINVAL: "such a name cannot be; check the path",
    errno.EXDEV: "source and target lie on different disks; choose a place on the same one",
}
_REFUSED = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or lower runtime.workers",
    errno.ENFILE: "raise the limit of open files or lower runtime.workers",
    errno.EIO: "the disk or its connection is broken; run the same command again when it works",
    errno.ESTALE: "the network disk has lost the file; run the same command again",
    errno.ENOMEM: "free some memory and run the same command again",
}


def system_problem(error: OSError) -> PeftbenchError | None:
    """The error as one message; None where it names no file and is none of the well-known refusals."""
    number = error.errno or 0
    place = f"{brief(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
    reason = (error.strerror or str(error)).lower()
    if number in _REFUSED:
        return PeftbenchError(f"{place}{reason}; {_REFUSED[number]}")
    if number in _WRONG_PATH and place:
        return BadInput(f"{place}{reason}; {_WRONG_PATH[number]}")
    return None


def unreadable(error: OSError, place: object = None) -> PeftbenchError:
    """The same for a file or folder that was to be read, by default the one that the error names: always a message."""
    return system_problem(error) or BadInput(f"{place or error.filename}: cannot be read ({error.strerror})")
