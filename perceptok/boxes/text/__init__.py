"""Boxes in text: surface forms, free text, answers, and other models' spellings."""
