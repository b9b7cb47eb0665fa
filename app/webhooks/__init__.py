"""Webhooks: who is told what happens, written down where it happens, and sent later."""
