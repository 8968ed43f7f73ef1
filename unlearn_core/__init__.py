"""The engine: makes a Stable Diffusion v2 text encoder forget a concept, as a LoRA.

It knows torch and nothing of any host or user interface; a host lends its model through
`lent_model.LentModel` and gets an `unlearn.UnlearnResult` back.
"""
