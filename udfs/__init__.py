"""What the engine calls, and in ``pure`` the mathematics without an engine."""

from udfs.worker import end_with_the_engine, stop_sampling

stop_sampling()
end_with_the_engine()
