"""The cost of a recipe, computed before anything is loaded or rented."""
