"""``dimat merge --adapters``: adapters in PEFT's folders combined into one, without their base."""
