"""Vision specialists: networks that estimate depth or detect boxes, behind two protocols."""
