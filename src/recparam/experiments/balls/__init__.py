"""The moving-balls experiment (App. D, Figs. 1 and 2)."""
