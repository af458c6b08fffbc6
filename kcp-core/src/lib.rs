//! The KCP protocol as a sans-IO, no_std state machine.
