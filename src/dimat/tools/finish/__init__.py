"""The last step of a run: one network of all agents, with a closed-form head."""

from dimat.tools.finish.run import Finished, finish

__all__ = ["Finished", "finish"]
