"""The paper's claim in miniature, from real audio: does coat beat its controls, and is it used?"""
