"""The control socket: what an administrator asks of netd, and has it do, while it runs."""
