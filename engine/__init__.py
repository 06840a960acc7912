"""What happens over time: the stages, training, inference, the cascade, evaluation, reports."""
