"""llama.cpp: the grammar in GBNF.

What it enforces: blocks of exactly 100 codes, tuples of four, limits, what comes first, a forced block, no stray perception
token, no end inside a block. What it cannot: x2 >= x1 and y2 >= y1 (llama.cpp keeps one stack for every alternative that may
come next and walks the vocabulary for each, so that hundreds of alternatives would cost more than the model), the budget,
and what a prompt left open.

Perception tokens are meant as tokens, by id (`<[32000]>`); running text is meant by its characters, for GBNF can exclude no
set of tokens: it has no "<DEPTH_" and no "<PIXEL_", however spelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perceptok.decoding.grammar import GrammarConfig, Symbol
from perceptok.decoding.pieces import BracketTokenizer
from perceptok.decoding.rules import TokenClasses, productions
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary.lookup import PerceptionVocabulary

__all__ = ["perception_gbnf"]
