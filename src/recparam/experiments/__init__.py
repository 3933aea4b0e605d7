"""Experiments built on the library, one folder each; the library never imports them."""
