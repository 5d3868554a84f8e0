"""Many images through a pipeline: found, answered, resumable, and shown on a page."""
