"""The demo: both stages on 140 real clips, on two CPU cores."""
