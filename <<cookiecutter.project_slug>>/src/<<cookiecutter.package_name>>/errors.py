"""The one exception whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend. Says what is wrong, where, and what to type next; shown without a traceback."""
