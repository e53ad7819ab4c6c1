"""netd: one daemon that runs many small network services."""

__version__ = "0.1.0"
