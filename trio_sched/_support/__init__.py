"""What every room stands on: task patterns, lazy imports, processes, the clock on the wall.

Imports nothing of the package.
"""
