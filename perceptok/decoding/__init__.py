"""Decoding held to the grammar of perception tokens: every block and every tuple that is generated is whole."""
