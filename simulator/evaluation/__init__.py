"""How good a run is, against the truth of a simulated world or the weak labels of a real one."""
