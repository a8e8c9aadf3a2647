"The weights that `r3d_small` and `res_faces` start from, and their data cards."
