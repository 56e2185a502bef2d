"""Local training of an agent, and the merge of a round."""
