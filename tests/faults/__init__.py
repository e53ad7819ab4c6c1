"""The faults that netd survives: a table, and what runs it against the real daemon.

Each row is a `Fault` (faults.fault) in a list FAULTS of one of the modules that faults.table
gathers. To add one:

1. write a function that provokes the fault on a `Target`, a daemon that runs (faults.target), and
   asserts what its client sees. Clients that the target makes are closed afterwards;
2. add a row: a name, the daemon to provoke it in (faults.setups; give a service of its own to a
   fault that needs other limits or deadlines), the function, and what netd is to log and to
   count: `Sessions` and `Refusals` stand for both, `log` and `counters` for all else.

What is true of every fault is not to be written: a canary is answered within 250 ms all the while;
descriptors, threads and sessions are as many as before within 2 s of the end; the log holds the
lines that the row expects and no other, so that a traceback that nobody expects is one too many;
and each counter of each service moved by the number that the row expects, which is 0 for those
that it does not name. `ANY` stands for a number that the kernel decides.

Rows with the mark `soak` run by `pytest -m soak -n 0`.
"""
