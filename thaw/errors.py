"""The one exception a user ever sees."""


class UserError(Exception):
    """A mistake in the input that the user can mend.

    Its message is one sentence that says what was expected, what was found and what to do next. Every command prints
    it after ``error:`` and exits with status 1; ``HYDRA_FULL_ERROR=1`` shows the traceback as well.
    """
