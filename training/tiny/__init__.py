"""The tiny LLaVA that is made on the data's own captions first."""
