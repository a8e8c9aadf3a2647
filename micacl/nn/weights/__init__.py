"The weights that `r3d_small` starts from, and their data card."
