"""What did a model learn, and what did it lose?"""
