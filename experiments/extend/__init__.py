"""How does a model trained on L tokens read s·L, by every extension, with and without fine-tuning?"""
