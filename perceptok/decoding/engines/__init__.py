"""The grammar in the engines that generate: one adapter each."""
