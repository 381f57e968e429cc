"""What models cost to load and to run: a file of costs that ships, for what nobody has measured yet."""
