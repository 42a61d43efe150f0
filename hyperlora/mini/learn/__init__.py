"""The mini world learns: every network of the mini pack, trained from nothing on drawn people.

`python -m hyperlora.mini train` runs the slots one after another; `slots` lists them, each is a file of its own.
"""
