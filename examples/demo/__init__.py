"""The demo: both stages on about a hundred real clips, on two CPU cores."""
