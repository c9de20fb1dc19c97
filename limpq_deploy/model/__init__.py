"""The float model: taken as its user gave it, traced, its layers and quantizer places found."""
