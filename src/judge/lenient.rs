//! Values as judges really write them, read without guessing (pure).
