"""What a person can ask for: each verb is a function here and a command of `harken`."""
