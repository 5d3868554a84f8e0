"""The networks of the depth VQ-VAE: the default grid, the reference's, and the learning of code vectors."""
