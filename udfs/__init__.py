"""What the engine calls, and in ``pure`` the mathematics without an engine."""

from udfs.worker import stop_sampling

stop_sampling()
