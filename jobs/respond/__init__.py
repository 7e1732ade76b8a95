"""respond: tells people and programs of incidents, by a policy, beside the job."""
