"""What is seen in pictures of a game whose objects are known: by colour, with nothing learned."""
