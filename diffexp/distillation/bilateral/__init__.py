"""BDDM (Lam et al. 2022): a noise schedule for any trained denoiser, learned by a network that sees a noisy sample.

Everywhere here alpha is the signal level of variance-preserving states, delta = 1 - alpha^2 their noise's variance, and
beta the variance of one step; betas rise with the index, so index 0 is next to the data.
"""
