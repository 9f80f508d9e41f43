"""Reading of plain chats (worker.rows.readers.plain_chat) in a format. The result depends on the roles alone, so each
order of roles is read once."""

from dataclasses import dataclass, field

from api.spec.formats import Example, Format, RowError
from worker.rows.readers import PlainChat

MAX_ORDERS = 1_000
"""Maximum number of orders of roles that are remembered."""


@dataclass
class PlainFormat:
    """One format's reading of plain chats."""

    format: Format
    known: dict[tuple[str, ...], Example | RowError] = field(default_factory=dict)
    """Roles → the outcome of reading a chat with these roles and placeholder texts."""

    def read(self, chat: PlainChat) -> Example | RowError:
        """Return the example that the format makes of a chat with these roles, with placeholders for the texts, or the
        format's error."""
        outcome = self.known.get(chat.roles)
        if outcome is None:
            outcome = self._read([{"role": role, "content": "text"} for role in chat.roles])
            if len(self.known) < MAX_ORDERS:
                self.known[chat.roles] = outcome
        return outcome

    def _read(self, messages: list[dict[str, str]]) -> Example | RowError:
        try:
            return self.format.read({"messages": messages})
        except RowError as error:
            return RowError(error.message, code=error.code)
