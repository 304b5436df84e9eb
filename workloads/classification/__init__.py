"""The image classification task: models, data and metric."""
