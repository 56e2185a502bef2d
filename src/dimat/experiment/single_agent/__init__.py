"""The run of one agent in a process of its own, among neighbors that run in theirs."""
