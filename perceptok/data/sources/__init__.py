"""Sources: folders of images, annotation files and the procedural world, as samples with depth and boxes."""
