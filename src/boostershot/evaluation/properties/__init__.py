"""The four immunisation properties as numbers with intervals, from per-row figures; knows no model and no files.

Per-row figures of one seed are an array whose first axis is the rows (prompts); those of several seeds a list of them.
"""
