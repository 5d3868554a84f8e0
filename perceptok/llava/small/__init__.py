"""A small LLaVA from real pretrained parts that trains on two cores, and the demonstration made of it."""
