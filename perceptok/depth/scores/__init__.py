"""How good a depth codec is: errors, order of points, reports and pictures."""
