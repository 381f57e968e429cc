"""`muster up`: a whole Muster on one machine."""
