"""Specs of teachers and streams, kinds of streams, codecs, words and notes."""
