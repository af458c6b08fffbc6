//! What an endpoint may hold, and its sessions: looked at in each of its driver's turns.

use std::collections::BTreeMap;

use kcp_tokio::{KcpEndpoint, SessionConfig};

/// As configured, and what the world adds to it: what is taken where nothing is held is never refused for its length.
#[derive(Copy, Clone, Debug)]
pub(super) struct Limits {
    pub(super) recv_buffer: usize,
    pub(super) send_buffer: usize,
    pub(super) send_window: u32,
    /// Received and unread, written and not acknowledged, of all sessions.
    pub(super) budgets: (usize, usize),
    /// Opened by peers, in all and of one address.
    pub(super) sessions: Option<usize>,
    pub(super) per_ip: Option<usize>,
    /// The longest payload of a segment that anybody sends.
    pub(super) segment: usize,
    /// The longest message, in message mode.
    pub(super) message: usize,
}

impl Limits {
    pub(super) fn new(config: &SessionConfig, send_window: u32) -> Self {
        let buffers = config.buffers();
        Self {
            recv_buffer: buffers.received,
            send_buffer: buffers.sent,
            send_window,
            budgets: (1 << 30, 1 << 30),
            sessions: None,
            per_ip: None,
            segment: 0,
            message: 0,
        }
    }

    /// `streams`: how many the application has, of which some may be of sessions that have ended.
    pub(super) fn check(&self, endpoint: &KcpEndpoint, streams: usize) -> Result<(), String> {
        let stats = endpoint.stats();
        let sessions = stats.sessions as usize;
        // One segment or message of each where it has nothing else.
        let spare = (sessions + streams) * self.segment.max(self.message);
        for (what, held, budget) in [
            ("unread", stats.unread_bytes as usize, self.budgets.0),
            ("not acknowledged", stats.unacked_bytes as usize, self.budgets.1),
        ] {
            if held > budget + spare {
                return Err(format!(
                    "{held} bytes of {sessions} sessions, {streams} streams {what}, {budget} and {spare} are allowed"
                ));
            }
        }
        if let Some(most) = self.sessions.filter(|&most| sessions > most) {
            return Err(format!("{sessions} sessions, {most} are allowed"));
        }
        let mut by_address = BTreeMap::<_, usize>::new();
        for session in endpoint.sessions() {
            *by_address.entry(session.peer_addr().ip()).or_default() += 1;
            let stats = session.stats();
            let wrong = |what: &str, held: usize, most: usize| {
                format!("conv {}: {held} {what}, {most} are allowed", session.conv())
            };
            // The segment that all wait for is taken while there is nothing to read: then a message may be whole.
            let most = self.recv_buffer + self.segment.max(self.message);
            if stats.unread_bytes as usize > most {
                return Err(wrong("bytes unread", stats.unread_bytes as usize, most));
            }
            let most = self.send_buffer.max(self.message);
            if stats.unsent_bytes as usize > most {
                return Err(wrong("bytes unsent", stats.unsent_bytes as usize, most));
            }
            if stats.in_flight > self.send_window {
                return Err(wrong("segments in flight", stats.in_flight as usize, self.send_window as usize));
            }
        }
        // Who has moved to where others are is welcome.
        let most = self.per_ip.map(|most| most + stats.moved as usize);
        match by_address.into_iter().find(|&(_, count)| most.is_some_and(|most| count > most)) {
            Some((address, count)) => Err(format!("{count} sessions of {address}, {most:?} are allowed")),
            None => Ok(()),
        }
    }
}
