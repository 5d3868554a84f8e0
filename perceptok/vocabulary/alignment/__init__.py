"""The one-to-one map M of AURORA's Eq. 1: its costs, its solution, its file."""
