"The network of the book: MICACL trained on drawn clips, and its card."
