"""Training a depth codec: the recipe, the maps, their variation, the loop, and the folder of a run."""
