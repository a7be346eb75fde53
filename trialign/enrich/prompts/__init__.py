"""The prompts, one readable file each; a changed file is another prompt, and its replies are asked for anew."""
