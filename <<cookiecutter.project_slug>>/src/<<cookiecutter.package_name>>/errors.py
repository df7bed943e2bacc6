"""The one exception whose text is meant for the person at the keyboard."""

# The exit code of a stage that says: a person must mend something, trying again will not help.
USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend. Says what is wrong, where, and what to type next; shown without a traceback."""
