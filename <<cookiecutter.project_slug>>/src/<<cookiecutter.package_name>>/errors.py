"""The one exception whose text is meant for the person at the keyboard."""

# The exit code of a stage that says: a person must mend something, trying again will not help.
USER_ERROR = 2


def one_line(said: object, most: int = 300) -> str:
    """What a library said, for a message of one line."""
    return " ".join(str(said).split())[:most]


class UserError(Exception):
    """Something the user can mend. Says what is wrong, where, and what to type next; shown without a traceback."""
