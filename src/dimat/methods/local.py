"""``local``: every agent trains alone. The floor that any exchange has to beat."""

from __future__ import annotations

from dimat.exchange import Step, Talk
from dimat.methods.protocol import Member, Merged


class Local:
    """No exchange: the state stays as it is.

    *Assumes* nothing. *Breaks when* a shard does not represent the task: an agent cannot know
    classes that it never sees.
    """

    def merge(self, me: Member) -> Talk[Merged]:
        """Say nothing, hear nobody."""
        yield Step()
        return Merged(me.state)
