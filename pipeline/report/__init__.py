"""`coat-cache report`: a teacher cache as one HTML page that people can look at and listen to."""
