"""Cards for the Hugging Face Hub: data set, model, licenses."""
