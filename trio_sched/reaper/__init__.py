"""Who ends and revokes what a killed process left behind.

`owner` is the side of the process that may be killed, `helper` the process that outlives it.
"""
