"""Training on Vertex AI: the specs of its jobs, their submission, and what a trial does there."""
