"""The errors a person meets. Each says what is wrong with the actual value, and what to do.

DeployError            exit code 1: it cannot be done
├── UsageError         exit code 2: the command was wrong
└── GateError          exit code 3: a gate failed; nothing is wrong with the command

Our own bugs are ordinary exceptions and never one of these.
"""


class DeployError(Exception):
    """Something that the person who ran the command can mend.

    `message` says what is wrong, with the value at hand; `fix` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}\n{fix}")
        self.message = message
        self.fix = fix

    def __reduce__(self) -> tuple[type["DeployError"], tuple[str, str]]:
        return type(self), (self.message, self.fix)  # so that a worker process can hand one to its parent


class UsageError(DeployError):
    """The command or its options are wrong."""

    exit_code = 2


class GateError(DeployError):
    """A gate failed: parity, audit or a required precision."""

    exit_code = 3
