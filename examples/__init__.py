"""Small programs that show the project in use; tests run them."""
