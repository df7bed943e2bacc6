"""The one exception whose text is meant for the person at the keyboard."""

import errno
import re

# The exit code of a stage that says: a person must mend something, trying again will not help.
USER_ERROR = 2


# What moves a terminal's cursor, colours it or turns the direction of text: C0 but tab and line feed, C1, Unicode's
# separators and marks of direction, and halves of characters, which cannot be printed at all.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text from outside, fit for a terminal or a log: control characters are written out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(said: object, most: int = 300) -> str:
    """What a library said, for a message of one line."""
    return plain(" ".join(str(said).split()))[:most]


def of_disk(error: Exception) -> str | None:
    """What to say of a disk that takes nothing more, or of a damaged file; None where the error is another one."""
    if type(error).__name__ == "InvalidInputException" and ".parquet" in str(error):  # DuckDB names the file
        return f"a file is damaged ({one_line(error)}): move it away or bring it back, then the same command again"
    if type(error).__name__ == "OperationalError" and ("disk" in str(error) or "readonly" in str(error)):
        return f"a database cannot be written ({error}): make space, then the same command again; nothing is half done"
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full{where}: make space, then the same command again; nothing is half done"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"the disk cannot be written{where}: {error.strerror}. Mend that, then the same command again"
    return None


class UserError(Exception):
    """Something the user can mend. Says what is wrong, where, and what to type next; shown without a traceback."""
