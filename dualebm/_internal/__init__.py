"""What the rest is built on, and what no user needs: columns of points, checks of arguments, cells."""
