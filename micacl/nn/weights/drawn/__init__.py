"The network that scores videos where no other is named: MICACL trained on drawn faces, and its card."
