"""From the logits of a prompt to the tokens of a reply: on the host, or in steps on a device."""
