"""Stored sessions of many frameworks, read without running anything of theirs.

A value becomes dicts, lists, strings, numbers, bytes, booleans and None. What a pickle would have constructed becomes
a dict that says so. Nothing is imported, called or constructed by the data's order.
"""
