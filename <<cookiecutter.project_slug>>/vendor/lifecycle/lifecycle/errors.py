"""The exception whose text is meant for the person at the keyboard, and texts without passwords."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

# The exit code of a stage that says: a person must mend something, trying again will not help.
USER_ERROR = 2


# What moves a terminal's cursor, colours it or turns the direction of text: C0 but tab and line feed, C1, Unicode's
# separators and marks of direction, and halves of characters, which cannot be printed at all.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text from outside, fit for a terminal or a log: control characters are written out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


# What stands before @ in a URL; the first kind are names of accounts and containers, which may be seen.
_USER = re.compile(r"(?:ssh|sftp|abfss?|wasbs?)://[^\s/:?#'\"<>]*@|(?<=://)([^\s/?#'\"<>]*)@")
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:auth|credential|key|password|secret|sig|signature|token)=)[^\s&;#'\"<>]+", re.IGNORECASE
)
# The path of a webhook's URL is its password.
_HOOK = re.compile(
    r"(://(?:hooks\.[\w.-]+|[\w.-]+\.webhook\.office\.com|discord(?:app)?\.com/api/webhooks)/)[^\s'\"<>]+"
)
# Variables of the environment that hold a password or a key, unless it is the path of one.
_VARIABLE = re.compile(r".*(?:TOKEN|PASSWORD|SECRET|KEY|AUTH_STRING|CONNECTION_STRING)", re.IGNORECASE)
# Shorter ones are words: to replace them would leave little of a message.
_SHORTEST = 6


def redacted(said: object) -> str:
    """A text without passwords: those in URLs, and those that the environment holds."""
    text = str(said)
    for password in sorted(_passwords(), key=len, reverse=True):
        text = text.replace(password, "***")
    return _HOOK.sub(r"\1***", _QUERY.sub(r"\1***", _USER.sub(lambda found: "***@" if found[1] else found[0], text)))


def _passwords() -> set[str]:
    found = {value for name, value in os.environ.items() if _VARIABLE.fullmatch(name) and value[0:1] not in "/~"}
    for user in (user for value in os.environ.values() for user in _USER.findall(value)):
        password = user.partition(":")[2]
        found |= {password, unquote(password)}
    return {each for each in found if len(each) >= _SHORTEST}


@contextmanager
def redacted_traceback() -> Iterator[None]:
    """End the process after an exception that nobody expected: exit code 1, and a traceback without passwords."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        sys.exit(redacted(traceback.format_exc()))


def one_line(said: object, most: int = 300) -> str:
    """What a library said, for a message of one line."""
    return plain(" ".join(redacted(said).split()))[:most]


def of_disk(error: Exception) -> str | None:
    """What to say of a disk that takes nothing more, or of a damaged file; None where the error is another one."""
    if type(error).__name__ == "InvalidInputException" and ".parquet" in str(error):  # DuckDB names the file
        return f"a file is damaged ({one_line(error)}): move it away or bring it back, then the same command again"
    if type(error).__name__ == "OperationalError" and ("disk" in str(error) or "readonly" in str(error)):
        said = one_line(error)
        return f"a database cannot be written ({said}): make space, then the same command again; nothing is half done"
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full{where}: make space, then the same command again; nothing is half done"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"the disk cannot be written{where}: {error.strerror}. Mend that, then the same command again"
    return None


class UserError(Exception):
    """A mistake that the user can correct. Says what is wrong, where, and what to type next; shown without a traceback.

    Libraries put URLs with passwords into what they say: the text of this one holds none.
    """

    def __init__(self, said: object = "") -> None:
        super().__init__(redacted(said))
