"""The one room that speaks SQL: every statement is a named function that takes an open transaction.

`jobs` (enqueue, find, cancel, retry) · `units` (claim, heartbeat, release, reap) · `renders` (complete, fail) ·
`weight_sets` (claim, finish) · `fleet` (workers, the elected reaper) · `queries` (status for people).
`archive` (there and back) · `sweep` (which objects are named) · `verify` (counting anew) · `security` (roles, row-level
security) · `sight` (whether a login sees every tenant).
"""
