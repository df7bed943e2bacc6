"""The exception for messages to the user, and the removal of passwords from text."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

# A stage's exit code for an error that a person must fix and a retry will not.
USER_ERROR = 2


# Characters that move a terminal's cursor, colour it or change the direction of text: C0 except tab and line feed, C1,
# Unicode's separators and direction marks, and surrogates, which cannot be printed at all.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Make external text safe for a terminal or a log by escaping control characters."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


# The part before @ in a URL. The first kind are names of accounts and containers, which are not secret.
_USER = re.compile(r"(?:ssh|sftp|abfss?|wasbs?)://[^\s/:?#'\"<>]*@|(?<=://)([^\s/?#'\"<>]*)@")
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:auth|credential|key|password|secret|sig|signature|token)=)[^\s&;#'\"<>]+", re.IGNORECASE
)
# The path of a webhook's URL is a secret.
_HOOK = re.compile(
    r"(://(?:hooks\.[\w.-]+|[\w.-]+\.webhook\.office\.com|discord(?:app)?\.com/api/webhooks)/)[^\s'\"<>]+"
)
# Environment variables that hold a password or a key, unless the value is a path.
_VARIABLE = re.compile(r".*(?:TOKEN|PASSWORD|SECRET|KEY|AUTH_STRING|CONNECTION_STRING)", re.IGNORECASE)
# Do not replace shorter values: they may be ordinary words, and the message would become unreadable.
_SHORTEST = 6


def redacted(said: object) -> str:
    """Remove passwords from a text: those in URLs, and those in environment variables."""
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
    """End the process on an unexpected exception, with exit code 1 and a traceback without passwords."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        sys.exit(redacted(traceback.format_exc()))


def one_line(said: object, most: int = 300) -> str:
    """Shorten a library's message to one line."""
    return plain(" ".join(redacted(said).split()))[:most]


def of_disk(error: Exception) -> str | None:
    """Return the message for a full disk or a damaged file, or None for any other error."""
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
        return f"the disk cannot be written{where}: {error.strerror}. Fix that, then run the same command again"
    return None


class UserError(Exception):
    """An error that the user can fix. Says what is wrong, where, and what to type next; shown without a traceback.

    Libraries include URLs with passwords in their messages, so passwords are removed from the text. `for_good`: a retry
    will not help.
    """

    for_good: bool = True

    def __init__(self, said: object = "") -> None:
        super().__init__(redacted(said))
