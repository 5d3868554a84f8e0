"""The networks of the depth VQ-VAE: the default ones, the reference's, and the quantiser that learns the codebook."""
