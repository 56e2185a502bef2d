"""What reads what runs wrote, or foresees them."""
