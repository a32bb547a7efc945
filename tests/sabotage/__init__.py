"""The protections of the package, a table for each subject, and the runner that takes them out one at a time."""
