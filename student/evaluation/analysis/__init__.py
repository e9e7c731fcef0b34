"""Analysis: is the block used, and what does it hold?"""
