"""The grammar of perception tokens: states, symbols and rules; no serving framework."""
