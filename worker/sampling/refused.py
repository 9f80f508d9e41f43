"""The refusal of a request by the sampler's child process."""


class RequestRefused(Exception):
    """The model cannot serve the request. `message` is for the user."""

    def __init__(self, message: str, *, param: str, code: str) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code
