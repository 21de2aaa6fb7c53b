"""Finetuning of vision-language models on MVC with S-VCO and the objectives it is compared to."""
