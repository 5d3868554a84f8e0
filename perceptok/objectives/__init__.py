"""What perception tokens are trained with: AURORA's Eqs. 1 to 4, and terms that later work added."""
