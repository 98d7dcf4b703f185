"""The errors that a user can cause. The command line prints their message and no traceback."""


class WSISError(Exception):
    """Something outside the code is wrong; the message names the file and the next command."""

    exit_code = 1


class UsageError(WSISError):
    """The command line or the config asks for what cannot be done."""

    exit_code = 2


class DataError(WSISError, ValueError):
    """A file from outside is missing, damaged or contradicts itself."""
