"""A lent model, its family, and what is done with it: noise, drawing, gradients."""
