//! Seeded network emulator: loss, delay, reordering and more, in virtual time.
