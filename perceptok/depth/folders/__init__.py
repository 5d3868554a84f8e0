"""Many depth maps at once: which files, their records, and interruptible jobs over them."""
