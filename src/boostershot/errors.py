"""The two ways in which boostershot tells a user that it cannot go on."""


class InputError(ValueError):
    """Something that the user gave is wrong; the message is one line that names it and what was expected.

    The command line prints the line and exits with 2.
    """


class StageFailed(RuntimeError):
    """A stage could not finish (disk full, out of memory, a non-finite loss); the command line exits with 1."""
