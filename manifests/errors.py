"""One exception for everything the user can mend.

A command line shows it as one line and exits with 2; anything else is a defect of ours and keeps
its traceback.
"""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message says what was found, what was expected and what to do, in one or two sentences.
    """
