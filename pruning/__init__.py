"""What a transformer is made of, how redundant its parts are, and how they are taken out."""
