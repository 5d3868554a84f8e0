"""The grammar of perception tokens, independent of any serving engine."""
