"""The one exception a user ever sees, how a command ends with it, and what it says of others."""

import os
import sys
import textwrap


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


def shortened(error: Exception) -> str:
    """What an error says, in one line: of a traceback that came along, the last one."""
    said = str(error).strip() or type(error).__name__
    if "Traceback (most recent call last)" in said:
        said = said.splitlines()[-1]
    return textwrap.shorten(said, 160, placeholder=" …")
