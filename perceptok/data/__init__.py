"""Images and annotations become records that train and test a model."""
