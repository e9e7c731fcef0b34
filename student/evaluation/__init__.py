"""Evaluation: is an answer right, does the block help, is it used, and what does it hold?"""
