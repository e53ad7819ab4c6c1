"""Roman numerals as a network service."""
