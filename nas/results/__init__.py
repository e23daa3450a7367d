"""What a search leaves for others: the result, the certificate, the model card."""
