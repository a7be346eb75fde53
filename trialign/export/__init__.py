"""Export: a generator as a folder that other software serves, with a certificate that it answers as trialign does."""
