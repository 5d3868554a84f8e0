"""Tasks of lmms-eval whose answers perceptok scores: YAML files, and the functions that they name."""
