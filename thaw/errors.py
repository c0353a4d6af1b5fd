"""The one exception a user ever sees, and how a command ends with it."""

import os
import sys


class UserError(Exception):
    """A mistake in the input that the user can mend.

    Its message is one sentence that says what was expected, what was found and what to do next. Every command prints
    it after ``error:`` and exits with status 1; ``HYDRA_FULL_ERROR=1`` shows the traceback as well.
    """


def fail(error: UserError) -> None:
    """End the program as a user's mistake ends: one sentence, exit status 1; a traceback only if it was asked for."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    sys.exit(f"error: {error}")
