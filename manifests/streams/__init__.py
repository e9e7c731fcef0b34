"""What teachers say: stream specs, kinds of streams, words and notes."""
