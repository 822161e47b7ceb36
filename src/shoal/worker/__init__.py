"""Inside a member's process: the session behind ``tune.report``, and the processes' main loops."""
