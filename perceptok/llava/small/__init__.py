"""A small LLaVA of real pretrained parts that trains on two cores, and the demonstration made of it."""
