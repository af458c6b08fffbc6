//! No congestion control (`nc = 1`): only the two windows limit the sender.

use super::{AckInfo, Controller};
use crate::time::Timestamp;

/// No congestion control.
#[derive(Clone, Copy, Debug, Default)]
pub struct Off;

impl Controller for Off {
    fn on_ack(&mut self, _now: Timestamp, _ack: &AckInfo) {}

    fn on_fast_retransmit(&mut self, _now: Timestamp, _in_flight: u32, _resend: u32) {}

    fn on_timeout(&mut self, _now: Timestamp, _in_flight: u32) {}

    fn window(&self) -> u32 {
        u32::MAX
    }
}
